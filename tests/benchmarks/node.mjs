// A bare client in Node: node node.mjs COUNT… -- COMMAND…: starts the command, one turn for each count, and prints the cost of the last.
import { spawn } from "node:child_process";

const [turns, command] = process.argv.slice(2).join("\0").split("\0--\0").map((part) => part.split("\0"));
const server = spawn(command[0], command.slice(1), { stdio: ["pipe", "pipe", "inherit"] });

async function* messages() {
  let rest = "";
  for await (const chunk of server.stdout.setEncoding("utf8")) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

const events = messages(); // one iterator for all turns: leaving a loop over it would close the stream
const next = async () => (await events.next()).value;
for (const [id, turn] of turns.entries()) {
  const [text, expected] = turn.split(":");
  const params = { threadId: process.env.THREAD, input: [{ type: "text", text }] };
  const [cpu, wall] = [process.cpuUsage(), performance.now()];
  server.stdin.write(JSON.stringify({ id, method: "turn/start", params }) + "\n");
  let count = 0;
  for (let message = await next(); ; message = await next()) {
    if (message.method && message.params && ++count == expected) break;
  }
  const { user, system } = process.cpuUsage(cpu);
  if (id == turns.length - 1) console.log(JSON.stringify([count, (performance.now() - wall) / 1e3, (user + system) / 1e6]));
}
server.stdin.end();
