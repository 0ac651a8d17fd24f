// A receiver with Express: npm install express standardwebhooks; node express_app.mjs
import express from "express";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.env.RELAY_ENDPOINT_SECRET);
const app = express();

// The signature is of the received bytes: this route must come before express.json().
app.post("/hook", express.raw({ type: () => true, limit: "1mb" }), (request, response) => {
  try {
    const event = webhook.verify(request.body, request.headers);
    console.log(event.type); // store it here: the same event may come again, with the same webhook-id
    response.status(204).end();
  } catch {
    response.status(400).end();
  }
});

app.listen(process.env.PORT ?? 3000);
