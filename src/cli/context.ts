import type { Command } from 'commander';
import { loadConfig } from '../config/load.ts';
import type { Config } from '../config/schema.ts';
import { createLog, type Log } from '../log.ts';

/** 128 + the signal's number, as shells have it. */
export const SIGNAL_EXIT = { SIGINT: 130, SIGTERM: 143 } as const;
export type StopSignal = keyof typeof SIGNAL_EXIT;

/**
 * Ctrl-C under `npx` comes twice: once from the terminal to the whole group, once passed on by npm. What follows this
 * closely is the same keystroke, not a second one.
 */
const SAME_KEYSTROKE_MS = 300;

/** What every command may exit with; documented in `waltide --help`. */
export const EXIT = { ok: 0, failed: 1, usage: 2, tableStopped: 3 } as const;

export interface Output {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  readonly rows?: number | undefined;
  write(text: string): boolean;
  once(event: 'drain', listener: () => void): unknown;
  /** Left out where nothing is drawn. */
  on?(event: 'resize' | 'drain', listener: () => void): unknown;
  off?(event: 'resize' | 'drain', listener: () => void): unknown;
}

/** Where keys come from. */
export interface Input extends NodeJS.ReadableStream {
  readonly isTTY?: boolean | undefined;
  setRawMode?(on: boolean): unknown;
}

/** The world a command runs in. Tests bring their own. */
export interface CliIo {
  readonly stdout: Output;
  readonly stderr: Output;
  /** Left out where there is none. */
  readonly stdin?: Input;
  readonly env: NodeJS.ProcessEnv;
  readonly cwd: string;
}

interface GlobalOptions {
  readonly config?: string;
  readonly json?: boolean;
  readonly logLevel?: Config['log']['level'];
}

export interface Loaded {
  readonly config: Config;
  readonly log: Log;
  /** The user wants machine-readable output. */
  readonly json: boolean;
  /** Where the configuration was read from; null where the environment was all. */
  readonly file: string | null;
  /** Reads it once more. Throws ConfigError. */
  readonly reload: () => Promise<Config>;
}

/** What commands share: where to write, when to stop, and which exit code to leave behind. */
export class CliContext {
  readonly io: CliIo;
  /** Set by a command that ends without an error and yet not well. */
  exitCode: number = EXIT.ok;
  /** True once a command promises to end by itself, in order, when `signal` aborts. Others are ended at once. */
  drains = false;
  readonly #stop = new AbortController();
  #stoppedAt = 0;

  constructor(io: CliIo) {
    this.io = io;
  }

  /** Aborts on the first SIGINT or SIGTERM; the reason is the signal's name. */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** Called by the process. The result is the exit code to leave with at once, or null where the command drains. */
  interrupt(name: StopSignal): number | null {
    if (this.#stop.signal.aborted)
      return performance.now() - this.#stoppedAt < SAME_KEYSTROKE_MS ? null : SIGNAL_EXIT[name];
    if (!this.drains) return SIGNAL_EXIT[name];
    this.#stoppedAt = performance.now();
    this.#stop.abort(name);
    return null;
  }

  /** The exit code of a command that the signal kept from its goal. */
  get interruptedCode(): number {
    return SIGNAL_EXIT[this.#stop.signal.reason as StopSignal] ?? EXIT.failed;
  }

  /** Configuration and log as the global options ask for. Throws ConfigError. */
  async load(command: Command): Promise<Loaded> {
    const options = globals(command);
    const read = () => loadConfig({ file: options.config, cwd: this.io.cwd, env: this.io.env });
    const { config, file } = await read();
    const format = config.log.format ?? (this.io.stderr.isTTY ? 'pretty' : 'json');
    const log = createLog({ level: options.logLevel ?? config.log.level, format });
    return { config, log, json: options.json ?? false, file, reload: async () => (await read()).config };
  }

  print(text: string): void {
    this.io.stdout.write(`${text}\n`);
  }

  /** For what a person should know but a pipe should not carry. */
  note(text: string): void {
    this.io.stderr.write(`${text}\n`);
  }
}

export function globals(command: Command): GlobalOptions {
  return command.optsWithGlobals<GlobalOptions>();
}
