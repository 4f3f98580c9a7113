-- No transaction takes this one, and nobody waits for it. Interrupted, it leaves an index that is not valid, which is
-- dropped before it is built again.
-- requires: 002_orders

CREATE INDEX CONCURRENTLY orders_by_customer ON orders (customer);
