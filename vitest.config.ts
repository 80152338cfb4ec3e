import { defineConfig } from 'vitest/config';

const kafka = process.env.WALTIDE_TEST_KAFKA !== '0';
const postgres = process.env.WALTIDE_TEST_POSTGRES !== '0';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts', 'examples/**/*.test.ts'],
    // `npm test` looks for the servers and says which suites it leaves out; `npx vitest` alone leaves none out.
    exclude: [
      'node_modules/**',
      'dist/**',
      ...(kafka ? [] : ['**/*.kafka.test.ts']),
      ...(postgres ? [] : ['**/*.pg.test.ts', '**/*.kafka.test.ts']),
    ],
    globalSetup: ['test/support/global-setup.ts'],
    // Native addons (DuckDB) and tests that kill processes want processes, not threads.
    pool: 'forks',
    // Many tests run servers and child processes of their own; more would only make them time out.
    maxWorkers: 2,
    testTimeout: 180_000,
    hookTimeout: 180_000,
  },
});
