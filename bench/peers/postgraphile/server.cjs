// PostGraphile, which serves the reads that Patina is measured at from the same table, through the same role and policies.
//
//   node server.cjs PORT DATABASE_URL ROLE ACCOUNT
//
// In production mode, as its documentation recommends: only the operations named here, which clients send by name, and no
// query editor. pg's statements are prepared. ROLE and `patina.account` are set in the transaction of each request.
const { createServer } = require("node:http");
const { grafserv } = require("postgraphile/grafserv/node");
const { makePgService } = require("postgraphile/adaptors/pg");
const { PersistedPlugin } = require("@grafserv/persisted");
const { default: amber } = require("postgraphile/presets/amber");
const { postgraphile } = require("postgraphile");

const [port, connectionString, role, account] = process.argv.slice(2);
const INVOICES = `
  query invoices($account: BigInt!, $type: String!, $record: BigInt!, $limit: Int!) {
    allRecordInvoices(
      condition: { accountId: $account, recordType: $type, recordId: $record }
      orderBy: [CREATED_AT_DESC, INVOICE_ID_DESC]
      first: $limit
    ) {
      nodes {
        invoiceId number type status issuer issueDate dueDate total balance currency createdAt createdSource shortCode
      }
      pageInfo { hasNextPage endCursor }
    }
  }
`;

const instance = postgraphile({
  extends: [amber],
  plugins: [PersistedPlugin],
  pgServices: [
    makePgService({ connectionString, poolConfig: { max: 16 }, schemas: ["public"], pubsub: false }),
  ],
  grafserv: { graphiql: false, watch: false, persistedOperations: { invoices: INVOICES } },
  grafast: { explain: false, context: () => ({ pgSettings: { role, "patina.account": account } }) },
});

async function main() {
  const server = createServer();
  await instance.createServ(grafserv).addTo(server);
  await instance.getSchema();
  server.listen(Number(port), "127.0.0.1");
}

main().catch((error) => { console.error(error); process.exit(1); });
