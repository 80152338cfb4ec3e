import { z } from 'zod';
import { type OpenApiDocument, openApiDocument } from '../openapi.ts';
import { readerPage } from '../reader.ts';
import { defineRoute, type Route } from '../route.ts';

/** The document of `routes` and its reader page; both include themselves. Open to all: they tell nothing of the data. */
export function documentRoutes(routes: readonly Route[]): readonly Route[] {
  let document: OpenApiDocument | null = null;
  let page: string | null = null;
  const made = (): OpenApiDocument => (document ??= openApiDocument([...routes, ...documents]));
  const documents: readonly Route[] = [
    defineRoute({
      method: 'GET',
      url: '/api/v1/openapi.json',
      root: true,
      role: null,
      summary: 'This document: OpenAPI 3.1',
      reply: z.record(z.string(), z.unknown()),
      run: () => ({ ...made() }),
    }),
    defineRoute({
      method: 'GET',
      url: '/api/v1/docs',
      root: true,
      role: null,
      summary: 'The reader page',
      produces: 'text/html',
      reply: z.string(),
      run: () => (page ??= readerPage(made())),
    }),
  ];
  return documents;
}
