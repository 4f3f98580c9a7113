//! Bodies on their way into the SDK's types.

use std::any::Any;

use aws_smithy_types::body::SdkBody;
use buttress::BoxError;
use bytes::Bytes;
use http_body::Body;

/// The body as the SDK has it; one that is the SDK's already stays as it is.
pub(crate) fn sdk_body<B>(body: B) -> SdkBody
where
    B: Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError> + 'static,
{
    let mut slot = Some(body);
    let same = (&mut slot as &mut dyn Any).downcast_mut::<Option<SdkBody>>().and_then(Option::take);
    same.unwrap_or_else(|| slot.map_or_else(SdkBody::taken, SdkBody::from_body_1_x))
}
