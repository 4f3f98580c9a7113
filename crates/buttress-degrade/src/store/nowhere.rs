//! What stands for the store behind the memory where there can be none: without the feature `store`.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Entry, Lifetime};
use crate::shared::Told;

pub(crate) struct Behind<V>(Infallible, PhantomData<V>);

pub(crate) struct Writer<V>(Infallible, PhantomData<V>);

impl<V> Behind<V> {
    pub(crate) fn pending(&self) -> usize {
        match self.0 {}
    }

    pub(crate) fn put(
        &self,
        _: &Arc<str>,
        _: &Arc<Entry<V>>,
        _: Instant,
        _: usize,
    ) -> Result<Infallible, Infallible> {
        match self.0 {}
    }

    pub(crate) fn overflows(&self) {
        match self.0 {}
    }

    pub(crate) fn forget(&self, _: &str) {
        match self.0 {}
    }

    pub(crate) fn forget_all(&self) {
        match self.0 {}
    }

    pub(crate) async fn recall(&self, _: &str, _: &Told) -> Option<(V, Lifetime)> {
        match self.0 {}
    }

    pub(crate) fn writer(self: &Arc<Self>) -> Option<Writer<V>> {
        match self.0 {}
    }
}

impl<V> Writer<V> {
    pub(crate) async fn write(self) {
        match self.0 {}
    }
}
