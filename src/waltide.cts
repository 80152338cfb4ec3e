#!/usr/bin/env node
// The package's command. Node's pool of threads, which DuckDB and files are waited for in, has four, and they are made when the
// first of them is needed: four long queries would hold all of them, and nothing else would go on. CommonJS, since loading a
// module of the other kind needs the pool already. A thread that nothing has come to costs some kilobytes.
process.env.UV_THREADPOOL_SIZE ??= '12';
import('./main.ts');
