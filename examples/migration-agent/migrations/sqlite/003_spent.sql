-- What each has spent, kept by a trigger from now on.
-- requires: 002_orders

ALTER TABLE customers ADD COLUMN spent INTEGER NOT NULL DEFAULT 0;

UPDATE customers SET spent = (SELECT coalesce(sum(cents), 0) FROM orders WHERE customer = customers.id);

CREATE TRIGGER orders_spent AFTER INSERT ON orders BEGIN
    UPDATE customers SET spent = spent + new.cents WHERE id = new.customer;
END;
