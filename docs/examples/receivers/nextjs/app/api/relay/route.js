// A receiver as a Next.js route: npm install standardwebhooks; it answers at /api/relay.
import { Webhook } from "standardwebhooks";

export async function POST(request) {
  const body = await request.text(); // the received bytes, not request.json()
  try {
    const event = new Webhook(process.env.RELAY_ENDPOINT_SECRET).verify(body, Object.fromEntries(request.headers));
    console.log(event.type); // store it here: the same event may come again, with the same webhook-id
    return new Response(null, { status: 204 });
  } catch {
    return new Response(null, { status: 400 });
  }
}
