package main

import (
	"cmp"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/ociv2-sync/ociv2-sync/store/s3store"
)

// s3Flags say how buckets are reached. The rest is in the environment, as for
// other programs that use S3.
type s3Flags struct {
	endpoint, region                     string
	pathStyle, virtualHost, singleWriter bool
}

func (f *s3Flags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.endpoint, "s3-endpoint", "", "`URL` of the S3 service for s3://BUCKET/... (default AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or Amazon's)")
	fl.StringVar(&f.region, "s3-region", "", "`REGION` of buckets (default AWS_REGION or AWS_DEFAULT_REGION)")
	fl.BoolVar(&f.pathStyle, "s3-path-style", false, "name buckets in the path of URLs, not in the host")
	fl.BoolVar(&f.virtualHost, "s3-virtual-host", false, "name buckets in the host of URLs, as Amazon's are, at --s3-endpoint too")
	fl.BoolVar(&f.singleWriter, "single-writer", false, "write to a bucket whose service ignores If-Match: nobody else writes meanwhile")
}

// s3Options returns what the flags and the environment mean.
func (a *app) s3Options() s3store.Options {
	get := func(names ...string) (value string) {
		for _, name := range names {
			v, _ := a.env(name)
			value = cmp.Or(value, v)
		}
		return value
	}
	f := &a.web.s3
	o := s3store.Options{
		Endpoint:     cmp.Or(f.endpoint, get("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")),
		Region:       cmp.Or(f.region, get("AWS_REGION", "AWS_DEFAULT_REGION")),
		PathStyle:    f.pathStyle,
		VirtualHost:  f.virtualHost,
		SingleWriter: f.singleWriter,
		AccessKey:    get("AWS_ACCESS_KEY_ID"), SecretKey: get("AWS_SECRET_ACCESS_KEY"), SessionToken: get("AWS_SESSION_TOKEN"),
		CredentialsFile: get("AWS_SHARED_CREDENTIALS_FILE"), Profile: get("AWS_PROFILE"),
		Retries: a.retries(), RateLimit: int64(a.limitRate),
	}
	if home := get("HOME"); o.CredentialsFile == "" && home != "" {
		o.CredentialsFile = filepath.Join(home, ".aws", "credentials")
	}
	// A machine elsewhere would only wait for an answer that never comes.
	elsewhere := get("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
	if elsewhere == "" {
		o.Metadata = get("AWS_EC2_METADATA_SERVICE_ENDPOINT")
	}
	o.Role = o.Endpoint == "" || elsewhere != "" || o.Metadata != ""
	o.TLS, _ = a.clientTLS() // whose errors the HTTP client has told
	return o
}

// s3Advice says what to do about a refusal.
func s3Advice(e *s3store.RefusedError) string {
	switch e.Code {
	case "RequestTimeTooSkewed":
		return "set this machine's clock"
	case "ExpiredToken":
		return "get new credentials"
	case "AuthorizationHeaderMalformed", "InvalidRegion", "PermanentRedirect":
		return "--s3-region names the region of the bucket"
	case "SignatureDoesNotMatch":
		return "check AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials"
	case "InvalidAccessKeyId", "InvalidToken", "InvalidTokenId", "InvalidClientTokenId":
		return "check AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN, or ~/.aws/credentials"
	}
	if e.AccessKey == "" {
		return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile of ~/.aws/credentials with AWS_PROFILE"
	}
	return "use credentials that may do this: pull gets objects; push, rm and gc list, put and delete them, too"
}
