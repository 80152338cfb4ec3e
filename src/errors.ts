import { maskedText } from './masked-url.ts';

/** Which side must act, so that a message lands with the right person. */
export type Side = 'config' | 'source' | 'transport' | 'sink' | 'internal';

/** What kind of thing went wrong, as the history of runs has it. */
export type ErrorClass = 'network' | 'database' | 'storage' | 'data' | 'config' | 'internal';

interface Policy {
  readonly side: Side;
  /** True where the same attempt may succeed later without anyone acting. */
  readonly retry: boolean;
  /** Where it is not what the side says. */
  readonly class?: ErrorClass;
  /** True where a restart ends the same: whoever would start the process again gains nothing. */
  readonly final?: true;
}

const CLASS_OF_SIDE: Record<Side, ErrorClass> = {
  config: 'config',
  source: 'database',
  transport: 'network',
  sink: 'storage',
  internal: 'internal',
};

/** The one table that decides what an error means: every code, whose side it is, whether trying again can help. */
export const POLICIES = {
  CONFIG_INVALID: { side: 'config', retry: false },
  USAGE: { side: 'config', retry: false },
  PROTECTION: { side: 'config', retry: false },
  TRANSFORM: { side: 'config', retry: false },
  SOURCE_UNREACHABLE: { side: 'source', retry: true, class: 'network' },
  SOURCE_AUTHENTICATION: { side: 'source', retry: false, class: 'config' },
  SOURCE_DATABASE_MISSING: { side: 'source', retry: false, class: 'config' },
  SOURCE_RIGHTS: { side: 'source', retry: false },
  SOURCE_SETTINGS: { side: 'source', retry: false },
  SOURCE_CONNECTION_LOST: { side: 'source', retry: true, class: 'network' },
  SOURCE_BUSY: { side: 'source', retry: true },
  SOURCE_ROW_TOO_LONG: { side: 'source', retry: false, class: 'data', final: true },
  SOURCE_QUERY: { side: 'source', retry: false },
  PROTOCOL: { side: 'source', retry: false },
  PUBLICATION: { side: 'source', retry: false },
  TABLES: { side: 'source', retry: false },
  SLOT_IN_USE: { side: 'source', retry: false },
  SLOT_LOST: { side: 'source', retry: false },
  SLOT_MISSING: { side: 'source', retry: false },
  SLOT_FOREIGN: { side: 'source', retry: false },
  SLOT_AHEAD: { side: 'source', retry: false },
  SLOT_BLOCKED: { side: 'source', retry: false },
  STREAMING: { side: 'source', retry: true },
  SPILL: { side: 'config', retry: true, class: 'storage' },
  CLUSTER_MISMATCH: { side: 'source', retry: false },
  TIMELINE: { side: 'source', retry: false },
  TIMELINE_CHANGED: { side: 'source', retry: false },
  TRANSPORT_UNREACHABLE: { side: 'transport', retry: true },
  TRANSPORT_AUTHENTICATION: { side: 'transport', retry: false, class: 'config' },
  TOPIC_MISSING: { side: 'transport', retry: false },
  RECORD_TOO_LARGE: { side: 'transport', retry: false, class: 'data' },
  OFFSET_OUT_OF_RANGE: { side: 'transport', retry: false, class: 'data' },
  TRANSPORT_FENCED: { side: 'transport', retry: false },
  TRANSACTION_INCOMPLETE: { side: 'transport', retry: false, class: 'data' },
  TRANSPORT: { side: 'transport', retry: false },
  SINK_LOCKED: { side: 'sink', retry: false },
  SINK_INVALID: { side: 'sink', retry: false },
  SINK_INCOMPLETE: { side: 'sink', retry: false },
  SINK_FULL: { side: 'sink', retry: true },
  SINK_REJECTED: { side: 'sink', retry: false, class: 'data' },
  SINK_FILES: { side: 'sink', retry: false },
  SINK_QUERY: { side: 'sink', retry: false },
  SINK: { side: 'sink', retry: true },
  WRITE_INVALID: { side: 'config', retry: false },
  WRITE_REJECTED: { side: 'source', retry: false },
  NOT_REACHED: { side: 'sink', retry: true },
  REPLAY: { side: 'config', retry: false },
  TABLE_CHANGED: { side: 'source', retry: true, class: 'data' },
  PULL: { side: 'source', retry: false, class: 'data' },
  VALIDATION: { side: 'sink', retry: false },
  NOT_RUNNING: { side: 'config', retry: false },
  DEAD_LETTER: { side: 'config', retry: false },
  ALERT: { side: 'config', retry: false },
  NOT_FOUND: { side: 'config', retry: false },
  UNAUTHENTICATED: { side: 'config', retry: false },
  FORBIDDEN: { side: 'config', retry: false },
  METHOD: { side: 'config', retry: false },
  BODY_TOO_LARGE: { side: 'config', retry: false },
  RATE_LIMITED: { side: 'config', retry: true },
  DIFFERENCES: { side: 'sink', retry: false, class: 'data' },
  SNAPSHOT: { side: 'source', retry: false },
  RUN_BUSY: { side: 'config', retry: true },
  RUN_CANCELLED: { side: 'config', retry: false },
  RUN_LOST: { side: 'source', retry: false },
  INTERNAL: { side: 'internal', retry: false },
} as const satisfies Record<string, Policy>;

export type ErrorCode = keyof typeof POLICIES;

/** Every error that a user may see: a code, what happened and where, and one sentence on what to do. */
export class WaltideError extends Error {
  readonly code: ErrorCode;
  readonly help: string;

  constructor(code: ErrorCode, message: string, help: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'WaltideError';
    this.code = code;
    this.help = help;
  }

  get side(): Side {
    return POLICIES[this.code].side;
  }

  get class(): ErrorClass {
    const policy: Policy = POLICIES[this.code];
    return policy.class ?? CLASS_OF_SIDE[policy.side];
  }

  /** What the caller may conclude: true = try again with backoff, false = a person must act first. */
  get retry(): boolean {
    return POLICIES[this.code].retry;
  }

  /** True where neither trying again nor starting the process again can help: a run without an end stays, and says why. */
  get final(): boolean {
    return 'final' in POLICIES[this.code];
  }
}

/** One table's data cannot be held by a sink. The table is set aside; the others go on. */
export class RejectedError extends WaltideError {
  readonly schema: string;
  readonly table: string;
  /** True where only the live rows cannot follow: a snapshot of the table that is under way can go on. */
  readonly snapshotGoesOn: boolean;
  /** True where nothing but the rows that the sink holds is wrong: a new snapshot of the table mends it. */
  readonly refill: boolean;

  constructor(
    schema: string,
    table: string,
    message: string,
    options?: { cause?: unknown; snapshotGoesOn?: boolean; refill?: boolean },
  ) {
    super(
      'SINK_REJECTED',
      message,
      options?.refill
        ? 'Its rows stay as they are until a new snapshot of it is complete, which is asked for.'
        : 'Change the column in the source, or leave the table out; then `waltide snapshot start` takes it up again.',
      options,
    );
    this.name = 'RejectedError';
    this.schema = schema;
    this.table = table;
    this.snapshotGoesOn = options?.snapshotGoesOn ?? false;
    this.refill = options?.refill ?? false;
  }
}

/**
 * Some events of a batch cannot be held. Each is put aside as a dead letter, and the others go on. Where the sink cannot tell
 * which (`culprits` is empty), they are looked for by applying the batch in parts.
 */
export class RejectedBatchError extends WaltideError {
  /** Events of the batch, each with its reason. */
  readonly culprits: ReadonlyMap<object, string>;

  constructor(message: string, options?: { cause?: unknown; culprits?: ReadonlyMap<object, string> }) {
    super(
      'SINK_REJECTED',
      message,
      'See `waltide dead-letter list`; `waltide dead-letter retry` applies it again.',
      options,
    );
    this.name = 'RejectedBatchError';
    this.culprits = options?.culprits ?? new Map();
  }
}

/** The message of anything thrown, as it may be told: drivers and modules name URLs with the passwords in them. */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError && !error.message) return error.errors.map(messageOf).join('; ');
  return maskedText(error instanceof Error ? error.message : String(error));
}
