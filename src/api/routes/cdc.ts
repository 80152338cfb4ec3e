import { defineRoute } from '../route.ts';
import { pipelineStatusSchema } from '../schemas/pipeline-status.ts';

const status = defineRoute({
  method: 'GET',
  url: '/cdc/status',
  role: 'viewer',
  summary: 'The pipeline of this process: slot, lag, sinks, copy progress',
  description: 'The same document as in `waltide status --json`, hence in its spelling.',
  reply: pipelineStatusSchema,
  run: (_request, { pipeline }) => pipeline.status(),
});

export const cdcRoutes = [status];
