// Follows a stream with the TypeScript client, which is compiled in the folder that the first argument names.
//
// Arguments: the folder, the origin, how many events. Prints their types as JSON, or the refusal that ends the stream.
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [, , folder, origin, number] = process.argv;
const { Relay } = await import(pathToFileURL(join(folder, "index.js")));
const found = [];
try {
  for await (const event of new Relay(origin, "key").stream({ after: "evt_0" })) {
    found.push(event.type);
    if (found.length === Number(number)) break;
  }
} catch (error) {
  found.push(`${error.code} ${error.retryAfter}`);
}
console.log(JSON.stringify(found));
process.exit(0);
