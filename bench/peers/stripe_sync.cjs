// @supabase/stripe-sync-engine, doing what Patina is measured at, on the same PostgreSQL.
//
//   node stripe_sync.cjs upserts  DATABASE_URL INVOICES           upsertInvoices, a hundred at a time
//   node stripe_sync.cjs webhooks DATABASE_URL EVENTS INVOICES    processWebhook, once an event, some at once
//
// (CommonJS, as its other build cannot find its own migrations.) Prints one line of JSON: how many, and in how many seconds. Nothing here asks Stripe anything.
const { StripeSync, runMigrations } = require("@supabase/stripe-sync-engine");
const Stripe = require("stripe");

const [what, databaseUrl, ...counts] = process.argv.slice(2);
const [many, invoices] = [Number(counts[0]), Number(counts[1] ?? counts[0])];
const SECRET = "whsec_bench";
const A_CALL = 100;
const AT_ONCE = 32;

function invoice(number, round) {
  return {
    id: `in_${String(number).padStart(12, "0")}`,
    object: "invoice",
    customer: `cus_${number % 20000}`,
    number: `INV-${number}`,
    status: round % 2 ? "paid" : "open",
    currency: "nzd",
    total: 11500 + round,
    subtotal: 10000 + round,
    amount_due: 11500 + round,
    amount_paid: 0,
    amount_remaining: 11500 + round,
    created: 1700000000 + number,
    due_date: 1702592000 + number,
    collection_method: "send_invoice",
    livemode: false,
    metadata: {},
    lines: { object: "list", has_more: false, data: [{ id: `il_${number}`, amount: 10000, description: "Work" }] },
  };
}

function webhook(number, stripe) {
  const payload = JSON.stringify({
    id: `evt_${number}`,
    object: "event",
    type: "invoice.updated",
    created: Math.floor(Date.now() / 1000) + number,
    data: { object: invoice(number % invoices, Math.floor(number / invoices)) },
  });
  return [payload, stripe.webhooks.generateTestHeaderString({ payload, secret: SECRET })];
}

async function main() {
  await runMigrations({ schema: "stripe", databaseUrl });
  const sync = new StripeSync({
    poolConfig: { connectionString: databaseUrl, max: 10 },
    schema: "stripe",
    stripeSecretKey: "sk_test_bench",
    stripeWebhookSecret: SECRET,
    autoExpandLists: false,
    backfillRelatedEntities: false,
  });

  let seconds;
  if (what === "upserts") {
    const made = Array.from({ length: many }, (_, number) => invoice(number, 0));
    const began = performance.now();
    for (let start = 0; start < many; start += A_CALL) {
      await sync.upsertInvoices(made.slice(start, start + A_CALL), false);
    }
    seconds = (performance.now() - began) / 1000;
  } else {
    // A webhook is signed just before it is sent, as its signature is good for some minutes only: that is not timed.
    const stripe = new Stripe("sk_test_bench");
    const made = Array.from({ length: many }, (_, number) => webhook(number, stripe));
    let next = 0;
    const line = async () => {
      while (next < many) {
        await sync.processWebhook(...made[next++]);
      }
    };
    const began = performance.now();
    await Promise.all(Array.from({ length: AT_ONCE }, line));
    seconds = (performance.now() - began) / 1000;
  }
  console.log(JSON.stringify({ done: many, seconds }));
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
