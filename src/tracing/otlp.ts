import { hostname } from 'node:os';
import {
  type Attributes,
  type Context,
  type Tracer as OtelTracer,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  trace,
} from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import {
  BatchSpanProcessor,
  ParentBasedSampler,
  type SpanExporter,
  TraceIdRatioBasedSampler,
  TracerProvider,
} from '@opentelemetry/sdk-trace';
import type { Config } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import type { Batch, Delivery, TraceRef } from '../event/batch.ts';
import type { ChangeEvent } from '../event/change-event.ts';
import { countRows } from '../event/copied-rows.ts';
import { formatLsn } from '../event/lsn.ts';
import type { Log } from '../log.ts';
import { VERSION } from '../version.ts';
import type { OpenSpan, Tracer } from './tracer.ts';

/** Spans that wait to be sent; beyond, they are dropped. */
const QUEUE_SPANS_MAX = 2048;
const SEND_TIMEOUT_MS = 5_000;
const CLOSE_MS = 3_000;
/** Of the batches that an apply brings together. */
const LINKS_MAX = 128;
const TRACES_PATH = '/v1/traces';

/** Sends spans by OTLP over HTTP, as JSON. */
export class OtlpTracer implements Tracer {
  readonly #provider: TracerProvider;
  readonly #tracer: OtelTracer;

  /** What `tracing` leaves out is taken from OpenTelemetry's variables of the environment. */
  constructor({ endpoint, headers, sampleRatio }: Config['tracing'], slot: string, log: Log) {
    const exporter = new OTLPTraceExporter({
      ...(endpoint !== undefined && { url: tracesUrl(endpoint) }),
      ...(headers !== undefined && { headers: parseHeaders(headers) }),
      timeoutMillis: SEND_TIMEOUT_MS,
    });
    this.#provider = new TracerProvider({
      resource: resourceFromAttributes({
        'service.name': process.env.OTEL_SERVICE_NAME || 'waltide',
        'service.version': VERSION,
        'service.instance.id': `${hostname()}:${process.pid}`,
        'waltide.slot': slot,
      }),
      sampler: new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(sampleRatio) }),
      spanProcessors: [new BatchSpanProcessor({ exporter: told(exporter, log), maxQueueSize: QUEUE_SPANS_MAX })],
    });
    this.#tracer = this.#provider.getTracer('waltide', VERSION);
  }

  captured(batch: Batch, receivedAtMs: number): OpenSpan {
    const now = Date.now();
    const root = this.#tracer.startSpan(
      'batch',
      { startTime: receivedAtMs, attributes: attributesOf(batch.events, batch.bytes) },
      ROOT_CONTEXT,
    );
    const inside = trace.setSpan(ROOT_CONTEXT, root);
    this.#tracer.startSpan('read', { startTime: receivedAtMs }, inside).end(now);
    const publish = this.#tracer.startSpan('publish', { startTime: now, kind: SpanKind.PRODUCER }, inside);
    return {
      ref: refOf(publish),
      end: (error) => {
        end(publish, error);
        end(root, error);
      },
    };
  }

  applying(sink: string, { events, bytes, traces = [] }: Delivery): OpenSpan {
    // What is sampled is to be seen whole, whichever of its batches was.
    const parent = traces.find(({ traceFlags }) => (traceFlags & TraceFlags.SAMPLED) !== 0) ?? traces[0];
    const links = traces.filter((ref) => ref !== parent).slice(0, LINKS_MAX);
    const span = this.#tracer.startSpan(
      'apply',
      {
        kind: SpanKind.CONSUMER,
        attributes: { 'waltide.sink': sink, ...attributesOf(events, bytes) },
        links: links.map((ref) => ({ context: ref })),
      },
      parent ? contextOf(parent) : ROOT_CONTEXT,
    );
    return { ref: refOf(span), end: (error) => end(span, error) };
  }

  async close(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, CLOSE_MS);
    });
    await Promise.race([this.#provider.shutdown().catch(() => {}), late]);
    clearTimeout(timer);
  }
}

function attributesOf(events: readonly ChangeEvent[], bytes: number): Attributes {
  const first = events[0]?.transaction;
  const last = events.at(-1)?.transaction;
  return {
    'waltide.rows': countRows(events),
    'waltide.bytes': bytes,
    ...(first && { 'waltide.lsn.first': formatLsn(first.commitLsn) }),
    ...(last && { 'waltide.lsn.last': formatLsn(last.commitLsn) }),
    ...(first && first.snapshot === null && { 'waltide.committed_at_ms': Number(first.commitTimeUs / 1000n) }),
    ...(first?.snapshot && { 'waltide.snapshot': first.snapshot.kind }),
  };
}

function refOf(span: Span): TraceRef {
  const { traceId, spanId, traceFlags } = span.spanContext();
  return { traceId, spanId, traceFlags };
}

function contextOf(ref: TraceRef): Context {
  return trace.setSpanContext(ROOT_CONTEXT, { ...ref, isRemote: false });
}

function end(span: Span, error: unknown): void {
  if (error !== undefined)
    span.setStatus({ code: SpanStatusCode.ERROR, message: error instanceof WaltideError ? error.code : 'INTERNAL' });
  span.end();
}

/** As OpenTelemetry has it for OTEL_EXPORTER_OTLP_ENDPOINT: the collector's address, without what is sent. */
function tracesUrl(endpoint: string): string {
  return endpoint.endsWith(TRACES_PATH) ? endpoint : endpoint.replace(/\/$/, '') + TRACES_PATH;
}

/** As in OTEL_EXPORTER_OTLP_HEADERS. */
function parseHeaders(text: string): Record<string, string> {
  return Object.fromEntries(
    text.split(',').map((pair) => {
      const at = pair.indexOf('=');
      return [pair.slice(0, at).trim(), decodeURIComponent(pair.slice(at + 1).trim())];
    }),
  );
}

/** Says once that nobody takes the spans, and once that somebody does again. */
function told(exporter: SpanExporter, log: Log): SpanExporter {
  let failing = false;
  return {
    export: (spans, done) =>
      exporter.export(spans, (result) => {
        const failed = result.error !== undefined;
        if (failed && !failing)
          log.warn(`traces cannot be sent: ${result.error!.message}; those that wait too long are lost`);
        if (!failed && failing) log.info('traces are sent again');
        failing = failed;
        done(result);
      }),
    shutdown: () => exporter.shutdown(),
    forceFlush: async () => exporter.forceFlush?.(),
  };
}
