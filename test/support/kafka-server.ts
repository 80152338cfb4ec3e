import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Kafka, logLevel } from 'kafkajs';
import { haveMaven, mavenLibraries } from './maven.ts';
import { guardProcess, type ProcessGuard } from './process-guard.ts';

export const kafkaVersion = '4.3.1';
/** Start takes 3 to 10 s on a quiet machine; the tests' machine is not. */
const READY_TIMEOUT_MS = 90_000;
const STOP_TIMEOUT_MS = 20_000;
const POLL_INTERVAL_MS = 100;
/** Another process may take a free port between our looking and the server's binding. */
const PORT_ATTEMPTS_MAX = 5;

export interface KafkaOptions {
  /** Default 512. */
  readonly heapMb?: number;
  /** Broker settings on top of those below, such as `{ 'message.max.bytes': '2000000' }`. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Ports beside the plain one: name → security protocol, such as `{ TLS: 'SSL' }`. */
  readonly listeners?: Readonly<Record<string, string>>;
  /** Ports that clients are sent to in place of a listener's own: of a proxy before it. */
  readonly advertised?: Readonly<Record<string, number>>;
}

/** One real broker on 127.0.0.1, which is its own controller. */
export interface KafkaServer {
  readonly brokers: string[];
  readonly port: number;
  /** host:port of every listener of the options. */
  readonly listeners: Readonly<Record<string, string>>;
  /** Changes with `restart`. */
  readonly pid: number;
  /** Stops it for good and removes its data. */
  stop(): Promise<void>;
  /** SIGKILL. `restart` brings it back. */
  kill(): void;
  /** Same port, same data; ends it in order first where it still runs. Resolves = it serves requests. */
  restart(): Promise<void>;
}

/** Whether a broker can run here; `why` is empty or names what is missing. */
export const haveKafka = haveMaven;

const START_ATTEMPTS_MAX = 3;

/** Starts Kafka 4.3.1 from Maven Central (fetched into `.cache` once). It ends with this process, however that ends. */
export async function startKafka(options: KafkaOptions = {}): Promise<KafkaServer> {
  const { ok, why } = haveKafka();
  if (!ok) throw new Error(`Kafka cannot run here: ${why}.`);
  const libraries = await kafkaLibraries();
  for (let attempt = 1; ; attempt++) {
    const home = await mkdtemp(join(tmpdir(), 'waltide-kafka-'));
    const server = new Server(home, libraries, options);
    try {
      await server.first();
      return server;
    } catch (error) {
      await server.stop();
      // A port that was free a moment ago may be taken by the time the broker binds it.
      if (attempt === START_ATTEMPTS_MAX) throw error;
    }
  }
}

/** The folder of the broker's jars. */
export function kafkaLibraries(): Promise<string> {
  return mavenLibraries(`kafka-${kafkaVersion}`, [
    { group: 'org.apache.kafka', artifact: 'kafka_2.13', version: kafkaVersion },
    { group: 'org.apache.logging.log4j', artifact: 'log4j-slf4j-impl', version: '2.25.4' },
  ]);
}

class Server implements KafkaServer {
  readonly #home: string;
  readonly #libraries: string;
  readonly #options: KafkaOptions;
  readonly #guard: ProcessGuard;
  #process: ChildProcess | null = null;
  #port = 0;
  readonly listeners: Record<string, string> = {};

  constructor(home: string, libraries: string, options: KafkaOptions) {
    this.#home = home;
    this.#libraries = libraries;
    this.#options = options;
    this.#guard = guardProcess(home);
  }

  get brokers(): string[] {
    return [`127.0.0.1:${this.#port}`];
  }

  get port(): number {
    return this.#port;
  }

  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  async first(): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      const controllerPort = await freePort();
      this.#port = await freePort();
      await this.#configure(controllerPort);
      await this.#format();
      const failure = await this.#attempt();
      if (failure === null) return;
      if (!failure.includes('BindException') || attempt === PORT_ATTEMPTS_MAX) {
        throw new Error(`Kafka did not start:\n${failure}`);
      }
      // The controller's port is in the metadata as well, so the data of a failed first start is worth nothing.
      await rm(join(this.#home, 'data'), { recursive: true, force: true });
    }
  }

  async restart(): Promise<void> {
    await this.#halt('SIGTERM');
    const failure = await this.#attempt();
    if (failure !== null) throw new Error(`Kafka did not restart:\n${failure}`);
  }

  kill(): void {
    this.#process?.kill('SIGKILL');
  }

  async stop(): Promise<void> {
    // Its data goes as well, so there is nothing to flush.
    await this.#halt('SIGKILL');
    this.#guard.end();
    await rm(this.#home, { recursive: true, force: true, maxRetries: 5 });
  }

  async #configure(controllerPort: number): Promise<void> {
    const more = Object.entries(this.#options.listeners ?? {});
    for (const [name] of more) this.listeners[name] = `127.0.0.1:${await freePort()}`;
    const addresses = more.map(([name]) => `,${name}://${this.listeners[name]}`).join('');
    const shown = this.#options.advertised ?? {};
    const sentTo = more.map(
      ([name]) => `,${name}://${name in shown ? `127.0.0.1:${shown[name]}` : this.listeners[name]}`,
    );
    const settings = {
      'process.roles': 'broker,controller',
      'node.id': '1',
      'controller.quorum.voters': `1@127.0.0.1:${controllerPort}`,
      listeners: `PLAINTEXT://127.0.0.1:${this.#port},CONTROLLER://127.0.0.1:${controllerPort}${addresses}`,
      'advertised.listeners': `PLAINTEXT://127.0.0.1:${this.#port}${sentTo.join('')}`,
      'controller.listener.names': 'CONTROLLER',
      'inter.broker.listener.name': 'PLAINTEXT',
      'listener.security.protocol.map': [
        'PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT',
        ...more.map((pair) => pair.join(':')),
      ].join(),
      'log.dirs': join(this.#home, 'data'),
      ...DEFAULT_SETTINGS,
      ...this.#options.settings,
    };
    const lines = Object.entries(settings).map(([key, value]) => `${key}=${value}\n`);
    await writeFile(join(this.#home, 'server.properties'), lines.join(''));
    await writeFile(join(this.#home, 'log4j2.properties'), LOG_SETTINGS);
  }

  async #format(): Promise<void> {
    const properties = join(this.#home, 'server.properties');
    // Any 16 bytes in base64url name a cluster, so the tool's own random-uuid (a JVM start) is not needed.
    const id = Buffer.from(crypto.randomUUID().replaceAll('-', ''), 'hex').toString('base64url');
    const args = ['kafka.tools.StorageTool', 'format', '-t', id, '-c', properties];
    const tool = spawn('java', [...this.#java(64), ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [tool.stdout, tool.stderr]) {
      stream.on('data', (data) => {
        output += data;
      });
    }
    const [code] = (await once(tool, 'close')) as [number | null];
    if (code !== 0) throw new Error(`Formatting Kafka's log folder failed:\n${output.trim()}`);
  }

  #java(heapMb: number): string[] {
    const logging = `-Dlog4j2.configurationFile=${join(this.#home, 'log4j2.properties')}`;
    return [`-Xmx${heapMb}m`, logging, '-cp', `${this.#libraries}/*`];
  }

  /** Null = it serves requests. Otherwise the end of its log. */
  async #attempt(): Promise<string | null> {
    const logFile = join(this.#home, 'server.log');
    const log = await open(logFile, 'a');
    const args = ['kafka.Kafka', join(this.#home, 'server.properties')];
    // detached: Ctrl-C in a terminal goes to the whole foreground group, and we decide when the server stops.
    const child = spawn('java', [...this.#java(this.#options.heapMb ?? 512), ...args], {
      cwd: this.#home,
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
    });
    child.on('error', () => this.#ended(child));
    child.on('exit', () => this.#ended(child));
    child.unref();
    this.#process = child;
    this.#guard.watch(child.pid ?? null);
    await log.close();
    const deadline = Date.now() + READY_TIMEOUT_MS;
    while (this.#process === child && Date.now() < deadline) {
      if (await serves(this.brokers)) return null;
      await sleep(POLL_INTERVAL_MS);
    }
    await this.#halt('SIGKILL');
    return (await readFile(logFile, 'utf8')).trim().split('\n').slice(-30).join('\n');
  }

  async #halt(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const running = this.#process;
    if (!running) return;
    running.ref(); // It does not keep us alive otherwise, and the event loop may run dry while we wait.
    const exited = once(running, 'exit');
    running.kill(signal);
    const timer = setTimeout(() => running.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await exited;
    clearTimeout(timer);
  }

  #ended(child: ChildProcess): void {
    if (this.#process !== child) return;
    this.#process = null;
    this.#guard.watch(null);
  }
}

const DEFAULT_SETTINGS = {
  // A typing error in a topic's name must fail, as it does on most real clusters.
  'auto.create.topics.enable': 'false',
  // One node can hold one replica.
  'offsets.topic.replication.factor': '1',
  'transaction.state.log.replication.factor': '1',
  'transaction.state.log.min.isr': '1',
  'share.coordinator.state.topic.replication.factor': '1',
  'share.coordinator.state.topic.min.isr': '1',
  'min.insync.replicas': '1',
  // Waiting for more members only makes tests slow.
  'group.initial.rebalance.delay.ms': '0',
  // The default of 50 takes a second or two to create on the first use of a group or transaction.
  'offsets.topic.num.partitions': '4',
  'transaction.state.log.num.partitions': '4',
  // 128 MB of the heap by default.
  'log.cleaner.dedupe.buffer.size': '16777216',
};

const LOG_SETTINGS = `status=error
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %-5p %c{1} %m%n
`;

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const address = probe.address();
  probe.close();
  await once(probe, 'close');
  if (address && typeof address === 'object') return address.port;
  throw new Error('no port from the operating system');
}

/** An open port is not enough: the broker must have registered with its controller. */
async function serves(brokers: string[]): Promise<boolean> {
  const kafka = new Kafka({ brokers, logLevel: logLevel.NOTHING, connectionTimeout: 1_000, retry: { retries: 0 } });
  const admin = kafka.admin();
  try {
    await admin.connect();
    return (await admin.describeCluster()).brokers.length > 0;
  } catch {
    return false;
  } finally {
    await admin.disconnect().catch(() => {});
  }
}
