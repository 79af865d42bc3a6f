-- Likes, views and sales per product, from the six commerce events. No parameters; reads new_events. Returns (ordinal,
-- reason) of the events that do not fit: the consumer then takes this transaction back, parks them and runs it again
-- with the others, so nothing is ever counted as 0. Runs in the transaction that records the events as handled, which
-- is what makes it safe to repeat. A line has limits, so that it is the event with an absurd figure that is refused,
-- and not the one after it, whose sum would be out of range: nine thousand million lines of the largest quantity fit
-- into a bigint. Figures are taken from the jsonb as numbers, never as text: 1e131071 prints a hundred thousand digits,
-- and one event has room for thousands of those.
with lines as materialized (
  -- One row per product that an event is about. An order without lines stays, as a line of null.
  select
    e.ordinal,
    e.event_type,
    e.event_time,
    line,
    case when jsonb_typeof(line -> 'productId') = 'number' then (line -> 'productId')::numeric end as product_id,
    case when jsonb_typeof(line -> 'quantity') = 'number' then (line -> 'quantity')::numeric end as quantity,
    case when jsonb_typeof(line -> 'amount') = 'number' then (line -> 'amount')::numeric end as amount
  from new_events as e
  left join lateral jsonb_array_elements(
    case
      when e.event_type not in ('OrderCreatedEvent', 'OrderCancelledEvent') then jsonb_build_array(e.payload)
      when jsonb_typeof(e.payload -> 'items') = 'array' then e.payload -> 'items'
    end
  ) as line on true
  where e.event_type <> 'PaymentCompletedEvent' -- Moves no metric.
),
judged as materialized (
  select
    ordinal,
    event_type,
    event_time,
    product_id,
    quantity,
    amount,
    case
      when line is null then 'items is missing or not a list with at least one line'
      when product_id is null or product_id <> trunc(product_id) or abs(product_id) > 9223372036854775807
        then 'productId is missing or not an integer'
      when event_type not in ('OrderCreatedEvent', 'OrderCancelledEvent') then null
      when quantity is null or quantity <> trunc(quantity) or quantity < 1 then 'quantity is missing or not an integer of at least 1'
      when quantity > 1000000000 then 'quantity is more than 1000000000'
      when amount is null or amount < 0 then 'amount is missing or not a number of at least 0'
      when amount > 1000000000000000 then 'amount is more than 1000000000000000'
      when scale(amount) > 100 then 'amount has more than 100 decimal places'
    end as reason
  from lines
),
folded as (
  insert into product_metrics as metrics (
    product_id, like_count, view_count, sales_count, total_sales_amount, last_event_at
  )
  select
    product_id::bigint,
    sum(case event_type when 'LikeAddedEvent' then 1 when 'LikeRemovedEvent' then -1 else 0 end),
    sum(case event_type when 'ProductViewEvent' then 1 else 0 end),
    sum(case event_type when 'OrderCreatedEvent' then quantity when 'OrderCancelledEvent' then -quantity else 0 end)::bigint,
    sum(case event_type when 'OrderCreatedEvent' then amount when 'OrderCancelledEvent' then -amount else 0 end),
    max(event_time)
  from judged
  where reason is null
  group by product_id::bigint
  order by product_id::bigint -- All folds lock products in this order, so none deadlocks with another.
  on conflict (product_id) do update set
    like_count = metrics.like_count + excluded.like_count,
    view_count = metrics.view_count + excluded.view_count,
    sales_count = metrics.sales_count + excluded.sales_count,
    total_sales_amount = metrics.total_sales_amount + excluded.total_sales_amount,
    last_event_at = greatest(metrics.last_event_at, excluded.last_event_at),
    updated_at = now()
)
select ordinal, min(reason) as reason
from judged
where reason is not null
group by ordinal
order by ordinal
