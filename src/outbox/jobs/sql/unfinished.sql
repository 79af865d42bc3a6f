-- The newest job of a kind that is not done and has these arguments. $1 text: kind. $2 jsonb: arguments it contains.
-- Changes nothing.
select id from outbox_jobs where kind = $1 and state <> 'done' and arguments @> $2::jsonb order by started_at desc, id desc limit 1
