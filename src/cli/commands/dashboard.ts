import { readFile } from 'node:fs/promises';
import { Command } from 'commander';
import type { Endpoint } from '../../api/client.ts';
import { toJson } from '../../api/json.ts';
import { API_BASE } from '../../api/route.ts';
import { messageOf, WaltideError } from '../../errors.ts';
import { durationMs } from '../arguments.ts';
import { type CliContext, EXIT, globals } from '../context.ts';
import { painted } from '../dashboard/line.ts';
import { showLive } from '../dashboard/live.ts';
import { initialState, type Picture, seen } from '../dashboard/model.ts';
import { localPoll, type Poll, remotePoll } from '../dashboard/poll.ts';
import { renderPage } from '../dashboard/render.ts';
import { paintFor, printable } from '../output.ts';

interface Options {
  readonly url?: readonly string[];
  readonly apiKeyFile?: string;
  readonly interval: number;
  readonly once?: boolean;
}

/** Wide enough that nothing is left out for a pipe. */
const PIPE_COLUMNS = 160;
const LOOPBACK = ['127.0.0.1', 'localhost', '[::1]'];

/** `waltide dashboard`: how everything stands, live. */
export function dashboardCommand(context: CliContext): Command {
  return new Command('dashboard')
    .description('Show live how everything stands: sinks and tables, lag, rates, dead letters, alerts, runs.')
    .option('--url <url>', 'an API elsewhere (several times for several processes)', collect)
    .option('--api-key-file <file>', 'its key, or a JWT, in a file (default: $WALTIDE_API_KEY)')
    .option('--interval <time>', 'how often to ask: 500ms, 10s', durationMs, 2000)
    .option('--once', 'print how it stands and end; so it does where stdout is no terminal')
    .addHelpText(
      'after',
      `
Without --url it asks the running processes of this configuration, found through stateDir. It only reads; a key of role
viewer is enough. For a certificate of your own: NODE_EXTRA_CA_CERTS. NO_COLOR=1 takes the colours away.

Keys: q quit, p pause, r ask now, ↑ ↓ PgUp PgDn Home End scroll.
Exit code of --once: 0 = a process answers; 1 = none does.

Examples:
  waltide dashboard
  waltide dashboard --once
  WALTIDE_API_KEY=… waltide dashboard --url https://cdc.example.com:8410
  waltide dashboard --json | jq '.processes[].status.sinks[] | {name, lagSeconds}'`,
    )
    .action(async (options: Options, command: Command) => {
      const { target, poll } = options.url
        ? await remote(context, options, options.url)
        : await local(context, command);
      const { stdout, stdin = null, env } = context.io;
      const json = globals(command).json ?? false;
      const paint = paintFor(stdout, env);
      if (!options.once && !json && stdout.isTTY === true && stdout.on && env.TERM !== 'dumb') {
        context.drains = true;
        const output = stdout as Required<typeof stdout>;
        const input = stdin?.isTTY ? stdin : null;
        return showLive({ target, poll, paint, input, output, intervalMs: options.interval, signal: context.signal });
      }
      const picture = await poll();
      context.exitCode = picture.processes.length > 0 ? EXIT.ok : EXIT.failed;
      if (json) return context.print(toJson(asJson(picture), 2));
      const state = seen(initialState(target, options.interval), picture);
      const lines = renderPage(state, stdout.columns || PIPE_COLUMNS, Date.now());
      context.print(lines.map((one) => painted(one, paint)).join('\n'));
    });
}

function collect(url: string, before: readonly string[] = []): readonly string[] {
  return [...before, url];
}

async function local(context: CliContext, command: Command): Promise<{ target: string; poll: Poll }> {
  const { config } = await context.load(command);
  const { slot } = config.source;
  return { target: `slot "${slot}"`, poll: localPoll(config.stateDir, slot) };
}

async function remote(
  context: CliContext,
  { apiKeyFile }: Options,
  urls: readonly string[],
): Promise<{ target: string; poll: Poll }> {
  const token = await tokenFrom(context.io.env, apiKeyFile);
  const endpoints = urls.map((url) => endpointAt(url, token));
  for (const { url, name } of endpoints)
    if (token !== null && url.startsWith('http:') && !LOOPBACK.includes(new URL(url).hostname))
      context.note(`The key goes to ${name} unencrypted: anybody between can read it. Use https.`);
  return { target: endpoints.map(({ name }) => name).join(', '), poll: remotePoll(endpoints) };
}

/** `https://host:8410`, also with a path that a proxy wants before ours. */
function endpointAt(text: string, token: string | null): Endpoint {
  const wrong = (why: string): WaltideError =>
    new WaltideError('USAGE', `--url "${printable(text)}" ${why}`, 'Write it as https://host:8410.');
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw wrong('is no URL');
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') throw wrong('is neither http nor https');
  if (url.username || url.password) throw wrong('holds a password, which others see in the list of processes');
  const path = url.pathname.replace(/\/+$/, '').replace(new RegExp(`${API_BASE}$`), '');
  return { url: url.origin + path, token, name: url.host + path };
}

async function tokenFrom(env: NodeJS.ProcessEnv, file: string | undefined): Promise<string | null> {
  let text = env.WALTIDE_API_KEY ?? '';
  if (file !== undefined)
    try {
      text = await readFile(file, 'utf8');
    } catch (error) {
      throw new WaltideError('USAGE', `--api-key-file: ${messageOf(error)}`, 'Name a file that holds the key.');
    }
  const token = text.trim();
  if (/[^\u0021-\u007e]/.test(token))
    throw new WaltideError('USAGE', 'the API key is none: it holds blanks or other characters', 'Copy it again.');
  return token === '' ? null : token;
}

function asJson({ atMs, processes, silent, records, recordsError }: Picture): unknown {
  return { at: new Date(atMs), running: processes.length > 0, processes, silent, records, recordsError };
}
