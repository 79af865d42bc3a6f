-- Reads the events of a batch that was in flight when its lane stopped, in the order they were sent in, or others by
-- their ids. $1 bigint: most bytes of one row. $2 bigint: most bytes of all rows. $3 int: rows up to this size are not
-- counted. $4 bigint[]: the ids. $5 boolean: `busy` says whether another transaction has locked or changed the row. A
-- batch that was in flight goes out again as it was, whoever has locked a row of it. Returns those that are still
-- PENDING, as claim.sql does. Changes nothing but a setting of this transaction. The status is compared as an
-- expression, so that the planner cannot choose the index of the PENDING rows: with statistics from a quiet moment it
-- believes that index to be almost empty, and a backlog made one batch take seconds.
select {columns},
  case
    when $5 and touched then (
      select true from outbox_events l where l.id = counted.id and l.status || '' = 'PENDING' for no key update skip locked
    ) is null
    else false
  end as busy
from (
  select *,
    {takes} as takes
  from (
    select *,
      {printed}
    from (
      select * from outbox_claimable
      where id = any($4) and status || '' = 'PENDING' and (select set_config('outbox_relay.claimed', '0', true)) <> ''
      order by id offset 0
    ) found
    offset 0
  ) printed
  offset 0
) counted
