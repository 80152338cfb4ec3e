import type { JsonSchema, OpenApiDocument, Operation, Parameter } from './openapi.ts';

/* The reader page: the OpenAPI document as HTML, with nothing to load and no script. */

const STYLE = `
:root{color-scheme:light dark;--bg:#fff;--fg:#1a2230;--dim:#5b6676;--line:#dfe4ea;--soft:#f5f7f9;--link:#0b5cad;
--get:#0a7d4b;--post:#0b5cad;--delete:#b3261e}
@media(prefers-color-scheme:dark){:root{--bg:#11151b;--fg:#e2e7ee;--dim:#97a3b2;--line:#2b3440;--soft:#181e26;--link:#7db8f5;
--get:#5ccf9b;--post:#7db8f5;--delete:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.55 system-ui,sans-serif;display:grid;grid-template-columns:17rem minmax(0,1fr)}
nav{position:sticky;top:0;height:100vh;overflow:auto;padding:1.5rem 1rem;border-right:1px solid var(--line);font-size:13px}
nav b{display:block;margin:1rem 0 .25rem;text-transform:capitalize}
nav a{display:block;padding:.12rem 0;overflow-wrap:anywhere}
main{padding:1.5rem 2.5rem 6rem;max-width:64rem}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
h1{margin:0 0 .5rem;font-size:1.7rem}h2{margin:3rem 0 1rem;text-transform:capitalize}
h4{margin:1.1rem 0 .35rem;font-size:.8rem;letter-spacing:.05em;text-transform:uppercase;color:var(--dim)}
p{margin:.4rem 0}
code,pre{font:13px/1.5 ui-monospace,Menlo,Consolas,monospace}
pre{background:var(--soft);border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem;overflow:auto}
details{border:1px solid var(--line);border-radius:8px;margin:.6rem 0}
details>div{padding:0 1rem 1rem}
summary{display:flex;gap:.75rem;align-items:baseline;padding:.6rem 1rem;cursor:pointer;flex-wrap:wrap}
summary span:last-child{margin-left:auto}
.method{font-weight:700;font-size:12px;width:4rem}
.get{color:var(--get)}.post{color:var(--post)}.delete{color:var(--delete)}
.dim{color:var(--dim);font-size:13px}
.role{border:1px solid var(--line);border-radius:99px;padding:0 .6rem;font-size:12px;color:var(--dim)}
ul.schema{list-style:none;margin:0;padding:0 0 0 1rem;border-left:1px solid var(--line)}
ul.schema li{padding:.12rem 0;font-size:13.5px}
@media(max-width:50rem){body{display:block}nav{display:none}main{padding:1rem}}
`;

const SCHEMA_DEPTH_MAX = 8;
const PLACEHOLDERS: Readonly<Record<string, unknown>> = {
  string: '…',
  integer: 1,
  number: 1,
  boolean: true,
  object: {},
};

/** One HTML page for people to read. */
export function readerPage(document: OpenApiDocument): string {
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );
  const sections = document.tags.map(({ name }) => ({
    name,
    entries: operations.filter(({ operation }) => operation.tags.includes(name)),
  }));
  const links = sections.map(
    ({ name, entries }) =>
      `<b>${html(name)}</b>${entries.map((entry) => `<a href="#${entry.operation.operationId}">${html(entry.operation.summary)}</a>`).join('')}`,
  );
  const bodies = sections.map(
    ({ name, entries }) =>
      `<h2>${html(name)}</h2>${entries.map(({ path, method, operation }) => describeOperation(path, method, operation)).join('')}`,
  );
  const { title, version, description } = document.info;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>${html(title)} API</title><style>${STYLE}</style></head>
<body><nav><a href="#top"><strong>${html(title)} API</strong></a>${links.join('')}</nav>
<main id="top"><h1>${html(title)} API <span class="dim">${html(version)}</span></h1>
<p>${html(description).replace(/\*(\w+)\*/g, '<em>$1</em>')}</p>
<p>The same for programs: <a href="/api/v1/openapi.json">openapi.json</a></p>
<pre>curl -H "Authorization: Bearer $WALTIDE_API_KEY" http://127.0.0.1:8410/api/v1/data-sync/sync/status</pre>
${bodies.join('\n')}</main></body></html>
`;
}

function describeOperation(path: string, method: string, operation: Operation): string {
  const { operationId, summary, description, parameters, requestBody, responses } = operation;
  const role = operation['x-role'];
  const parts = [
    description === undefined ? '' : `<p>${html(description)}</p>`,
    parameters.length > 0
      ? `<h4>Parameters</h4><ul class="schema">${parameters.map(describeParameter).join('')}</ul>`
      : '',
    requestBody
      ? `<h4>Body</h4>${Object.values(requestBody.content)
          .map(({ schema }) => describeSchema(schema))
          .join('')}`
      : '',
    ...Object.entries(responses).map(([status, response]) =>
      'content' in response
        ? `<h4>${status}: ${Object.entries(response.content)
            .map(([type, { schema }]) => `${html(type)}</h4>${describeSchema(schema)}`)
            .join('')}`
        : '',
    ),
    refusals(responses),
    `<h4>Example</h4><pre>${html(curl(path, method, operation))}</pre>`,
  ];
  return `<details id="${operationId}"><summary><span class="method ${method}">${method.toUpperCase()}</span><code>${html(path)}</code>
<span class="dim">${html(summary)}</span><span class="role">${role === null ? 'open' : html(role)}</span></summary><div>${parts.join('')}</div></details>`;
}

function describeParameter({ name, in: place, required, description, schema }: Parameter): string {
  const words = [typeOf(schema), place, required ? 'required' : '', limits(schema)].filter(Boolean).join(', ');
  return `<li><code>${html(name)}</code> <span class="dim">${html(words)}</span> ${html(description ?? '')}</li>`;
}

function refusals(responses: Operation['responses']): string {
  const codes = Object.entries(responses).filter(([, response]) => '$ref' in response);
  return `<p class="dim">Errors: ${codes.map(([status]) => status).join(', ')}</p>`;
}

/** A schema as nested lists. */
function describeSchema(schema: JsonSchema, depth = 0): string {
  const { properties, items, anyOf, oneOf, additionalProperties } = schema;
  if (depth > SCHEMA_DEPTH_MAX) return '';
  if (properties) {
    const entries = Object.entries(properties).map(([name, value]) => {
      const words = [typeOf(value), schema.required?.includes(name) ? '' : 'optional', limits(value)];
      const note = html(words.filter(Boolean).join(', '));
      return `<li><code>${html(name)}</code> <span class="dim">${note}</span> ${html(value.description ?? '')}${describeInner(value, depth + 1)}</li>`;
    });
    return `<ul class="schema">${entries.join('')}</ul>`;
  }
  if (items || anyOf || oneOf || typeof additionalProperties === 'object')
    return `<p class="dim">${html(typeOf(schema))}</p>${describeInner(schema, depth)}`;
  return `<p class="dim">${html(typeOf(schema))}</p>`;
}

/** What is inside a value that its type alone does not show. */
function describeInner(schema: JsonSchema, depth: number): string {
  const { properties, items, anyOf, oneOf, additionalProperties } = schema;
  if (properties) return describeSchema(schema, depth);
  if (items) return describeInner(items, depth);
  if (typeof additionalProperties === 'object') return describeInner(additionalProperties, depth);
  return (anyOf ?? oneOf ?? []).map((one) => describeInner(one, depth)).join('');
}

function typeOf(schema: JsonSchema): string {
  const { type, items, anyOf, oneOf, additionalProperties } = schema;
  if (schema.enum) return schema.enum.map(String).join(' | ');
  if (schema.const !== undefined) return String(schema.const);
  const several = anyOf ?? oneOf;
  if (several) return [...new Set(several.map(typeOf))].join(' | ');
  if (items) return `list of ${typeOf(items)}`;
  if (type === 'object' && typeof additionalProperties === 'object' && !schema.properties) return 'map';
  // A type that may be null as well is a list in JSON Schema.
  if (Array.isArray(type)) return type.join(' | ');
  return schema.format === 'date-time' ? 'time' : ((type as string | undefined) ?? 'anything');
}

function limits(schema: JsonSchema): string {
  const { minimum, maximum } = schema as { minimum?: number; maximum?: number };
  const low = minimum !== undefined && minimum > Number.MIN_SAFE_INTEGER ? `from ${minimum}` : '';
  const high = maximum !== undefined && maximum < Number.MAX_SAFE_INTEGER ? `to ${maximum}` : '';
  const preset = schema.default === undefined ? '' : `default ${JSON.stringify(schema.default)}`;
  return [[low, high].filter(Boolean).join(' '), preset].filter(Boolean).join(', ');
}

function curl(path: string, method: string, { parameters, requestBody, 'x-role': role }: Operation): string {
  const query = parameters.filter((one) => one.in === 'query' && one.required).map(({ name }) => `${name}=…`);
  const url = `http://127.0.0.1:8410${path}${query.length > 0 ? `?${query.join('&')}` : ''}`;
  const schema = Object.values(requestBody?.content ?? {})[0]?.schema;
  const lines = [
    `curl${method === 'get' ? '' : ` -X ${method.toUpperCase()}`} '${url}'`,
    ...(role === null ? [] : ['-H "Authorization: Bearer $WALTIDE_API_KEY"']),
    ...(schema ? [`-H 'Content-Type: application/json' -d '${JSON.stringify(sample(schema))}'`] : []),
  ];
  return lines.join(' \\\n  ');
}

/** A value that has the schema's form: what is required, with placeholders. */
function sample(schema: JsonSchema): unknown {
  const { type, properties, items, anyOf, oneOf } = schema;
  if (schema.const !== undefined) return schema.const;
  if (schema.default !== undefined) return schema.default;
  if (schema.enum) return schema.enum[0];
  const several = anyOf ?? oneOf;
  if (several?.[0]) return sample(several[0]);
  if (properties) {
    const wanted = Object.entries(properties).filter(([name]) => schema.required?.includes(name));
    return Object.fromEntries(wanted.map(([name, value]) => [name, sample(value)]));
  }
  if (items) return [sample(items)];
  const kind = (Array.isArray(type) ? type[0] : type) as string | undefined;
  return PLACEHOLDERS[kind ?? ''] ?? null;
}

function html(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}
