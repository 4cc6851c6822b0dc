import { makeWorkerUtils, run } from 'graphile-worker';
import { carry, concurrency, measured, rows } from './work.mjs';

const connectionString = process.env.DATABASE_URL;
const utils = await makeWorkerUtils({ connectionString });
await utils.migrate();
await utils.withPgClient((client) => client.query(
  "SELECT count(graphile_worker.add_job('person', json_build_object('number', number))) FROM generate_series(1, $1::int) AS number",
  [rows],
));
// As its documentation advises for throughput: jobs are fetched and completed in groups.
const worker = { connectionString, concurrentJobs: concurrency, localQueue: { size: 500 }, completeJobBatchDelay: 5 };
await measured(() => new Promise((resolve, reject) => {
  let done = 0;
  const person = async ({ number }) => {
    await carry(number);
    if (++done === rows) resolve();
  };
  run({ preset: { worker }, taskList: { person } }).catch(reject);
}));
