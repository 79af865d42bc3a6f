-- What is paused, since when, by whom and why. Changes nothing.
select topic, paused_at, actor, reason from outbox_pauses order by topic
