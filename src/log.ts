import { destination, type Logger, type LoggerOptions, pino, stdSerializers } from 'pino';
import { maskedText } from './masked-url.ts';

export type Log = Logger;

export interface LogOptions {
  readonly level: string;
  /** pretty = one readable line for people; json = pino's own lines for machines. */
  readonly format: 'json' | 'pretty';
}

/**
 * Logs go to stderr: stdout belongs to a command's result. Values of rows are never logged, and connection
 * strings are masked before they get here; what is below is the second net, also for modules of somebody, who log by this.
 */
export function createLog(options: LogOptions): Log {
  const redact = ['password', 'url', '*.password', '*.url', '*.sasl', 'token', '*.token'];
  const settings: LoggerOptions = {
    ...{ level: options.level, redact, base: null, timestamp: pino.stdTimeFunctions.isoTime },
    serializers: { err: masked },
    hooks: {
      logMethod(args, method) {
        const [first] = args as unknown[];
        const error = first instanceof Error ? first : (first as { err?: unknown } | null)?.err;
        // Without a message pino takes that of the error.
        if (args.length === 1 && error instanceof Error) (args as unknown[]).push(error.message);
        method.apply(this, args.map((arg) => (typeof arg === 'string' ? maskedText(arg) : arg)) as typeof args);
      },
    },
  };
  if (options.format === 'json') return pino(settings, destination({ fd: 2, sync: true }));
  return pino(settings, { write: (line: string) => process.stderr.write(prettyLine(line)) });
}

/** An error with its stack and causes, as pino tells of it. */
function masked(error: Error): unknown {
  const told: unknown = stdSerializers.err(error);
  return JSON.parse(JSON.stringify(told), (_key, value: unknown) =>
    typeof value === 'string' ? maskedText(value) : value,
  );
}

const LEVELS: Record<number, string> = { 10: 'trace', 20: 'debug', 30: 'info', 40: 'warn', 50: 'error', 60: 'fatal' };

function prettyLine(line: string): string {
  const { level, time, msg, err, ...rest } = JSON.parse(line) as Record<string, unknown>;
  const clock = String(time).slice(11, 23);
  const fields = Object.entries(rest).map(
    ([key, value]) => ` ${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`,
  );
  const cause = err && typeof err === 'object' && 'message' in err ? ` error="${String(err.message)}"` : '';
  return `${clock} ${(LEVELS[Number(level)] ?? '').padEnd(5)} ${String(msg ?? '')}${fields.join('')}${cause}\n`;
}
