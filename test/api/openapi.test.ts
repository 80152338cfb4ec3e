import { readFileSync } from 'node:fs';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, test } from 'vitest';
import { openApiDocument } from '../../src/api/openapi.ts';
import { readerPage } from '../../src/api/reader.ts';
import { ROUTES } from '../../src/api/routes.ts';

const document = openApiDocument(ROUTES);
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
);

describe('the OpenAPI document', () => {
  test("is valid by OpenAPI's own schema of 3.1", () => {
    const schema = JSON.parse(readFileSync(new URL('openapi-3.1.schema.json', import.meta.url), 'utf8')) as object;
    const ajv = new Ajv2020({ strict: false, validateFormats: false, allErrors: true });
    const validate = ajv.compile(schema);
    expect(validate(JSON.parse(JSON.stringify(document))), ajv.errorsText(validate.errors)).toBe(true);
    expect(validate({ ...document, paths: { x: {} } })).toBe(false);
  });

  test('every schema in it is one, and every reference leads somewhere', () => {
    const ajv = new Ajv2020({ strict: true, strictTypes: false, formats: { 'date-time': true, uuid: true } });
    const text = JSON.stringify(document);
    for (const [, name] of text.matchAll(/"\$ref":"#\/components\/([^"]+)"/g)) {
      const [kind, key] = name!.split('/') as [string, string];
      expect(document.components[kind], name).toHaveProperty(key);
    }
    for (const { operation } of operations) {
      for (const { schema } of operation.parameters) ajv.compile(schema);
      for (const { schema } of Object.values(operation.requestBody?.content ?? {})) ajv.compile(schema);
    }
  });

  test('every operation has a name of its own, a summary, its role, and the parameters of its path', () => {
    expect(operations).toHaveLength(ROUTES.length);
    expect(new Set(operations.map(({ operation }) => operation.operationId)).size).toBe(ROUTES.length);
    for (const { path, operation } of operations) {
      const names = operation.parameters.filter((one) => one.in === 'path').map(({ name }) => name);
      expect([...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)).toEqual(names);
      expect(operation.summary).toMatch(/^[A-Z].*[^.]$/);
      expect([null, 'viewer', 'operator', 'admin']).toContain(operation['x-role']);
      expect(operation.security.length === 0).toBe(operation['x-role'] === null);
    }
  });
});

describe('the reader page', () => {
  const page = readerPage(document);

  test('loads nothing and runs nothing', () => {
    expect(page).not.toMatch(/<script|<link|<img|<iframe|src=|@import|url\(/i);
    expect(
      [...page.matchAll(/href="([^"]*)"/g)].every(([, href]) => href!.startsWith('#') || href!.startsWith('/api/')),
    ).toBe(true);
  });

  test('shows every route', () => {
    for (const { path, operation } of operations) {
      expect(page).toContain(`<code>${path}</code>`);
      expect(page).toContain(`id="${operation.operationId}"`);
    }
  });

  test('escapes what the document says', () => {
    const evil = '<script>alert("x")</script>&';
    const shown = readerPage({ ...document, info: { ...document.info, description: evil } });
    expect(shown).not.toContain('<script>');
    expect(shown).toContain('&lt;script&gt;');
  });
});
