import type { AlertsConfig, Config, Severity } from '../../config/schema.ts';
import type { BudgetStatus, PipelineStatus } from '../../pipeline/status.ts';
import type { FailedSync, GoneInstance, SinkLetters } from '../../postgres/alert-facts.ts';
import type { StoredScore } from '../../postgres/validations.ts';

/** What rules look at: this process, and what the source knows of all of them. */
export interface View {
  readonly config: Config;
  /** Null once this process is ending: then it says nothing of itself. */
  readonly status: PipelineStatus | null;
  /** `host (role)`, as instances are told apart over restarts. */
  readonly process: string;
  readonly letters: readonly SinkLetters[];
  readonly scores: readonly StoredScore[];
  readonly failed: readonly FailedSync[];
  readonly gone: readonly GoneInstance[];
  /** Null where it cannot be known here and now; `missing` = the slot is not there, and should be. */
  readonly slot: BudgetStatus | 'missing' | null;
}

/** What a rule says of one subject. */
export interface Finding {
  readonly subject: string;
  /** The condition holds. False: it is clear. */
  readonly active: boolean;
  /** Where it is another than that of the configuration. */
  readonly severity?: Severity;
  readonly value: number | null;
  readonly threshold: number | null;
  /** One sentence with what a person wants to know first; values of rows are not among it. */
  readonly summary: string;
}

export type RuleKey = keyof AlertsConfig['rules'];

/** A rule for Prometheus, of the same meaning. */
export interface PrometheusRule {
  readonly alert: string;
  readonly expr: string;
  /** Default: that of the configuration. */
  readonly severity?: Severity;
  readonly forMs?: number;
  readonly summary: string;
}

/** A rule: everything that the evaluation, the documents and the file for Prometheus need to know of it. */
export interface AlertRule<K extends RuleKey = RuleKey> {
  /** As it is stored, and named by API and metrics: `sink_lag`. */
  readonly name: string;
  readonly key: K;
  /** What its subjects are, in words. */
  readonly subjects: string;
  /** When it holds, in words. */
  readonly holds: string;
  /**
   * What becomes of an open alert whose subject is not among the findings. clear: it is clear. stays: it stays. expires: it
   * stays for a day, since the process that sees it may be away; and while that is there, only it clears it.
   */
  readonly unseen: 'clear' | 'stays' | 'expires';
  find(view: View, settings: AlertsConfig['rules'][K]): readonly Finding[];
  prometheus(settings: AlertsConfig['rules'][K]): readonly PrometheusRule[];
}
