// The work of a row, the same as in `plain.rs`, and how it is measured: jobs are queued first, and processed after a line on the
// standard input.
import http from 'node:http';
import { once } from 'node:events';

export const rows = Number(process.env.ROWS);
export const concurrency = Number(process.env.CONCURRENCY);
const makesCalls = process.env.CALLS === '3';
const base = process.env.DOWNSTREAM_URL;
const agent = new http.Agent({ keepAlive: true, maxSockets: concurrency });

async function call(method, path, body, headers = {}) {
  const text = body && JSON.stringify(body);
  const length = text ? { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) } : {};
  const request = http.request(base + path, { method, agent, headers: { ...length, ...headers } });
  request.end(text);
  const [response] = await once(request, 'response');
  const parts = [];
  for await (const part of response) parts.push(part);
  if (response.statusCode >= 300) throw new Error(`${method} ${path}: ${response.statusCode}`);
  return JSON.parse(Buffer.concat(parts).toString());
}

export async function carry(number) {
  if (!makesCalls) return;
  const postcode = `AB${String(number % 10000).padStart(4, '0')}`;
  const { links } = await call('POST', '/address-links', { postcode });
  const { addresses } = await call('GET', `/addresses/${links[0].id}`);
  const email = `peer${number}@example.com`;
  const body = { email, campaign: 'bench', address_id: addresses[0].id };
  await call('POST', '/invite/create', body, { 'idempotency-key': `peer-${process.pid}-${number}` });
}

export async function measured(process_all) {
  console.log('ready');
  await once(process.stdin, 'data');
  const [began, cpu] = [performance.now(), process.cpuUsage()];
  await process_all();
  const used = process.cpuUsage(cpu);
  console.log(JSON.stringify({ seconds: (performance.now() - began) / 1e3, cpu: (used.user + used.system) / 1e6 }));
  process.exit(0);
}
