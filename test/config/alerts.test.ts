import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ConfigError, formatFault } from '../../src/config/faults.ts';
import { loadConfig } from '../../src/config/load.ts';
import { maskedConfig } from '../../src/config/mask.ts';

const LEAST = `source: { url: postgres://a@b/c, tables: ["*.*"] }
`;

async function load(alerts: string, env: NodeJS.ProcessEnv = {}) {
  const cwd = mkdtempSync(join(tmpdir(), 'waltide-config-'));
  writeFileSync(join(cwd, 'waltide.yaml'), LEAST + alerts);
  return (await loadConfig({ cwd, env })).config;
}

async function faultsOf(alerts: string): Promise<string> {
  try {
    await load(alerts);
  } catch (error) {
    if (error instanceof ConfigError) return error.faults.map(formatFault).join('\n');
    throw error;
  }
  return '';
}

test('the older systems’ thresholds are the defaults; a variable sets each', async () => {
  const { alerts } = await load('');
  expect(alerts).toMatchObject({ enabled: true, webhooks: [] });
  expect(alerts.rules).toMatchObject({
    sinkLag: { enabled: true, severity: 'warning', minutesMax: 15 },
    consistencyScore: { scoreMin: 90 },
    deadLetters: { openMax: 100 },
  });
  const changed = await load('', {
    WALTIDE_ALERTS_RULES_SINK_LAG_MINUTES_MAX: '0.5',
    WALTIDE_ALERTS_RULES_SYNC_FAILED_ENABLED: 'false',
    WALTIDE_ALERTS_WEBHOOKS_0_NAME: 'chat',
    WALTIDE_ALERTS_WEBHOOKS_0_FORMAT: 'slack',
    WALTIDE_ALERTS_WEBHOOKS_0_URL: 'https://hooks.slack.com/services/s3cret',
  });
  expect(changed.alerts.rules).toMatchObject({ sinkLag: { minutesMax: 0.5 }, syncFailed: { enabled: false } });
  expect(changed.alerts.webhooks).toMatchObject([{ name: 'chat', format: 'slack' }]);
  expect(JSON.stringify(maskedConfig(changed))).not.toContain('s3cret');
});

test('what cannot be is refused: at its line, and without a secret', async () => {
  const faults = await faultsOf(`alerts:
  intervalMs: 0
  rules:
    sinkLag: { minutesMax: -1 }
    slotAtRisk: { level: lost }
    deadLetter: { openMax: 1 }
    consistencyScore: { severity: grave, scoreMin: 101 }
  webhooks:
    - { name: a, url: "https://user:s3cret@host/" }
    - { name: a, url: "s3cret://x" }
    - { name: c }
    - { name: d, url: "https://h/s3cret", urlFile: f, secret: s3cret-s3cret-s3cret-s3cret, secretFile: g }
    - { name: e, url: "https://h", secret: s3cret, timeoutMs: 1000000 }
`);
  for (const expected of [
    /waltide\.yaml:3:\d+ alerts\.intervalMs: must be more than 0/,
    /waltide\.yaml:5:\d+ alerts\.rules\.sinkLag\.minutesMax: must be more than 0/,
    /waltide\.yaml:6:\d+ alerts\.rules\.slotAtRisk\.level: must be one of warning, critical/,
    /waltide\.yaml:7:\d+ alerts\.rules\.deadLetter: is not a key of the configuration; did you mean "deadLetters"\?/,
    /waltide\.yaml:8:\d+ alerts\.rules\.consistencyScore\.severity: must be one of info, warning, critical/,
    /waltide\.yaml:8:\d+ alerts\.rules\.consistencyScore\.scoreMin: must be at most 100/,
    /waltide\.yaml:10:\d+ alerts\.webhooks\[0\]\.url: may hold no user or password/,
    /waltide\.yaml:11:\d+ alerts\.webhooks\[1\]\.name: alerts\.webhooks\[0\] has this name too/,
    /waltide\.yaml:11:\d+ alerts\.webhooks\[1\]\.url: must begin with https:\/\/ or http:\/\//,
    /waltide\.yaml:12:\d+ alerts\.webhooks\[2\]: needs exactly one of url and urlFile, has none/,
    /waltide\.yaml:13:\d+ alerts\.webhooks\[3\]: needs exactly one of url and urlFile, has both/,
    /waltide\.yaml:13:\d+ alerts\.webhooks\[3\]: has both secret and secretFile/,
    /waltide\.yaml:14:\d+ alerts\.webhooks\[4\]\.secret: /,
    /waltide\.yaml:14:\d+ alerts\.webhooks\[4\]\.timeoutMs: must be at most 120000/,
  ])
    expect(faults).toMatch(expected);
  expect(faults).not.toContain('s3cret');
});
