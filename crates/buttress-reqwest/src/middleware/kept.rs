use std::mem;

use http::Uri;
use reqwest::{Body, Method, Request, Url};

use super::asked::{self, Asked, nowhere};

/// What a call asks for, or the one before it did: mostly they ask for the same, and what is known needs not be parsed.
#[derive(Default)]
pub(crate) struct Kept {
    asked: Option<Asked>,
    /// Of that, as long as it is not in a request.
    uri: Option<Uri>,
    /// They may be kept for the next call.
    lasts: bool,
}

impl Kept {
    /// What the call asks for.
    pub(crate) fn asked(&self) -> Option<&Asked> {
        self.asked.as_ref()
    }

    /// A call's own request as layers see it. One that has its URL is put into this place, for the first attempt.
    #[inline(always)]
    pub(crate) fn seen_by_layers(
        &mut self,
        mut request: Request,
        place: &mut Option<Request>,
    ) -> Result<http::Request<Body>, reqwest::Error> {
        let known = self.asked.as_ref().is_some_and(|asked| asked.is_for(request.url()));
        let uri = if known { self.uri.take() } else { None };
        // What is wrong with a URL is reqwest's to say.
        let Some(uri) = uri.or_else(|| self.learn(request.url())) else { return request.try_into() };
        // Nothing but a conversion gives extensions away, and it parses the URL.
        let url = mem::replace(request.url_mut(), nowhere());
        *place = Some(Request::new(Method::GET, url));
        let mut seen = http::Request::try_from(request);
        if let Ok(seen) = &mut seen {
            *seen.uri_mut() = uri;
        }
        seen
    }

    #[cold]
    fn learn(&mut self, url: &Url) -> Option<Uri> {
        (self.asked, self.lasts) = (Some(Asked::new(url.clone())), is_plain(url));
        url.as_str().parse().ok()
    }

    /// Puts what an attempt is to send into its place, where the call's own URL may be. The request is a blank one then.
    #[inline(always)]
    pub(crate) fn put_back(
        &mut self,
        request: &mut http::Request<Body>,
        place: &mut Option<Request>,
    ) -> Result<(), reqwest::Error> {
        let asked = self.asked.as_ref().filter(|asked| asked.is_of(request));
        let Some(asked) = asked else { return self.convert(request, place) };
        let whole = place.get_or_insert_with(|| Request::new(Method::GET, asked.url().clone()));
        self.uri = Some(asked::fill(whole, request));
        Ok(())
    }

    #[cold]
    fn convert(
        &self,
        request: &mut http::Request<Body>,
        place: &mut Option<Request>,
    ) -> Result<(), reqwest::Error> {
        let request = mem::take(request);
        *place = Some(match &self.asked {
            Some(asked) => asked.converted(request)?,
            None => request.try_into()?,
        });
        Ok(())
    }

    /// The call is over: what may be a secret is not kept for the next one.
    #[inline]
    pub(crate) fn end(&mut self) {
        if !self.lasts {
            *self = Self::default();
        }
    }
}

/// Whether it names a place and nothing else, which might be a secret: a user, a password, a query.
fn is_plain(url: &Url) -> bool {
    url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(kept: &mut Kept, url: &str) {
        let mut place = None;
        let request = Request::new(Method::GET, Url::parse(url).unwrap());
        let mut seen = kept.seen_by_layers(request, &mut place).unwrap();
        kept.put_back(&mut seen, &mut place).unwrap();
        assert_eq!(place.unwrap().url().as_str(), url);
        kept.end();
    }

    #[test]
    fn of_a_url_that_may_hold_a_secret_nothing_is_kept() {
        let mut kept = Kept::default();
        for url in
            ["http://api/x?token=1", "http://user@api/x", "http://user:secret@api/x", "http://api/x#part"]
        {
            called(&mut kept, "http://api/x");
            assert!(kept.asked.is_some() && kept.uri.is_some());
            called(&mut kept, url);
            assert!(kept.asked.is_none() && kept.uri.is_none(), "{url}");
        }
    }
}
