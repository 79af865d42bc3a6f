-- Replays and redriven dead letters: what they have done so far, so that each goes on after a crash and does nothing twice.

-- One row per replay. Each portion of copies is one transaction with the progress that is noted here.
create table outbox_replays (
  id uuid primary key default gen_random_uuid(),
  -- Which events, with every time worked out.
  filter jsonb not null,
  -- Null: each copy goes where its original went.
  to_topic text,
  new_ids boolean not null default false,
  -- Copies per second; null for as fast as it goes.
  rate int,
  -- The highest id when the replay began: what is inserted later, its own copies too, never matches.
  upto_id bigint not null,
  -- Everything up to here has been looked at, and copied if it matches.
  last_id bigint not null default 0,
  -- Counted before the first copy.
  matched bigint not null,
  copied bigint not null default 0,
  created_at timestamptz not null default now(),
  actor text not null,
  reason text,
  -- The process that works on it. Whoever resumes puts its own name here, and the former one then changes nothing more.
  runner uuid not null,
  finished_at timestamptz,
  constraint outbox_replays_rate check (rate > 0)
);
create index outbox_replays_unfinished on outbox_replays (created_at) where finished_at is null;

-- Dead letters that went back to their topic, by where they lie. The row is written in the transaction that puts the event back, so
-- a repeat finds it.
create table outbox_redriven (
  topic text not null,
  partition int not null,
  "offset" bigint not null,
  -- What lay there: a topic that was deleted and made again has other records in the same places.
  event_id uuid not null,
  failed_at text,
  -- The row that is published in its stead.
  row_id bigint,
  at timestamptz not null default now(),
  actor text not null,
  primary key (topic, partition, "offset")
);
