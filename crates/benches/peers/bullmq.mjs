import { Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { carry, concurrency, measured, rows } from './work.mjs';

const connection = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
const name = `people-${process.pid}`;
const queue = new Queue(name, { connection });
for (let first = 0; first < rows; first += 1000) {
  const numbers = Array.from({ length: Math.min(1000, rows - first) }, (_, index) => first + index);
  await queue.addBulk(numbers.map((number) => ({ name: 'person', data: { number }, opts: { removeOnComplete: true } })));
}
await measured(() => new Promise((resolve, reject) => {
  let done = 0;
  const worker = new Worker(name, (job) => carry(job.data.number), { connection, concurrency });
  worker.on('completed', () => { if (++done === rows) resolve(); });
  worker.on('failed', (_, error) => reject(error));
}));
