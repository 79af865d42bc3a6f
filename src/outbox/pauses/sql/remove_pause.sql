-- Resumes a topic, or everything. $1 text: the topic, or '*'. Running it twice changes nothing.
delete from outbox_pauses where topic = $1
