-- Pauses a topic, or everything. $1 text: the topic, or '*'. $2 text: who. $3 text: why, or null. Running it twice
-- changes nothing.
insert into outbox_pauses (topic, actor, reason) values ($1, $2, $3) on conflict do nothing
