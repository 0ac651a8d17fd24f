// Asks one of the official Node libraries whether a notification is signed well.
//
// Standard input: {"secret", "headers", "body" (base64), "library": "svix" | "standardwebhooks"}.
// Exit 0: accepted. Exit 1: the library refuses it. Exit 2: the question was wrong, which is no answer.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

async function accepts({ secret, headers, body, library }, folder) {
  const found = createRequire(join(folder, "from-here.js")).resolve(library);
  const { Webhook, WebhookVerificationError } = await import(pathToFileURL(found));
  const webhook = new Webhook(secret);
  try {
    webhook.verify(Buffer.from(body, "base64"), headers);
    return true;
  } catch (error) {
    if (error instanceof WebhookVerificationError) return false;
    throw error;
  }
}

try {
  const question = JSON.parse(readFileSync(0, "utf8"));
  process.exitCode = (await accepts(question, process.argv[2])) ? 0 : 1;
} catch (error) {
  console.error(error);
  process.exitCode = 2;
}
