import { connect, createServer } from 'node:net';
import { expect, it } from 'vitest';
import { eventLoopRest } from '../src/event-loop-turns.js';

it('hears many who connect together in one rest', async () => {
  const server = createServer();
  let accepted = 0;
  server.on('connection', (socket) => {
    accepted++;
    socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  const sockets = Array.from({ length: 20 }, () => connect(port, '127.0.0.1').on('error', () => {}));
  let rests = 0;
  for (; accepted < sockets.length; rests++) await eventLoopRest();
  expect(rests).toBeLessThan(sockets.length); // one turn each would be one connection each
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => server.close(resolve));
});

it('ends when others take long', async () => {
  let turns = 0;
  let isDone = false;
  const work = () => {
    turns++;
    for (const end = performance.now() + 3; performance.now() < end; );
    if (!isDone) setImmediate(work);
  };
  setImmediate(work);
  await eventLoopRest();
  isDone = true;
  expect(turns).toBeGreaterThan(0);
  expect(turns).toBeLessThanOrEqual(4); // of 3 ms each in 8
});
