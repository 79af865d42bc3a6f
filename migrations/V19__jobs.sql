-- Long-running commands and how far each of them is, so that they can be listed, cancelled and resumed from anywhere.

create table outbox_jobs (
  -- Of a replay: also its id in outbox_replays.
  id uuid primary key,
  -- Which command it is. Later versions may add others.
  kind text not null,
  -- What is needed to resume it. Never a key, an aggregate id or a payload.
  arguments jsonb not null,
  actor text not null,
  reason text,
  state text not null default 'running',
  -- [{"what": "copied", "done": 1200, "total": 5000}]. A total of 0 is not known.
  parts jsonb not null default '[]',
  -- Where it continues, for commands that have such a place.
  cursor jsonb,
  -- What it has done so far.
  result jsonb,
  -- Grows with each resume. Together with `runner` it fences former processes: their next write finds no row.
  epoch bigint not null default 1,
  -- The process that works on it. An epoch alone may occur twice after a failover that lost commits.
  runner uuid not null,
  -- The same process, for people.
  run_by text not null,
  started_at timestamptz not null default clock_timestamp(),
  resumed_at timestamptz,
  -- The last sign of life of the process.
  updated_at timestamptz not null default clock_timestamp(),
  -- A process that is still at work renews this every second. After it, the job is stalled.
  lease_until timestamptz not null,
  cancelled_by text,
  error_code text,
  error text,
  hint text,
  ended_at timestamptz,
  constraint outbox_jobs_state check (state in ('running', 'cancelling', 'cancelled', 'done', 'failed')),
  constraint outbox_jobs_ended check ((ended_at is null) = (state in ('running', 'cancelling')))
);
create index outbox_jobs_started on outbox_jobs (started_at);
create index outbox_jobs_ended on outbox_jobs (ended_at) where ended_at is not null;
