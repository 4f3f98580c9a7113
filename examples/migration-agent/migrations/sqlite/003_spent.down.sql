DROP TRIGGER orders_spent;
ALTER TABLE customers DROP COLUMN spent;
