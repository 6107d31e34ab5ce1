package s3store

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// RefusedError reports that the service does not do this for whom it takes the
// request to come from. Code says why: the credentials are wrong, or not enough, or
// too old, or the request is for another region.
type RefusedError struct {
	// Code is that of the service, such as AccessDenied.
	Code string
	// Text is what the service says.
	Text string
	// AccessKey is the one that the request was signed with; "" means that it was not.
	AccessKey string
}

// Error implements error.
func (e *RefusedError) Error() string {
	who := "without an access key"
	if e.AccessKey != "" {
		who = "with the access key " + e.AccessKey
	}
	return fmt.Sprintf("refused %s: %s", who, strings.TrimSuffix(strings.TrimSpace(e.Text), "."))
}

// fail names the file in an error of the service, which becomes one of package
// store's, or a RefusedError, where there is one.
func (d *Dir) fail(ctx context.Context, path string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e := minio.ToErrorResponse(err)
	switch {
	case e.Code == "NoSuchBucket":
		err = fmt.Errorf("%w: there is no bucket %s", store.ErrNotFound, d.bucket)
	case e.Code == "NoSuchKey":
		err = store.ErrNotFound
	case e.StatusCode == http.StatusPreconditionFailed, e.Code == "ConditionalRequestConflict":
		err = store.ErrChanged
	case refusal(e):
		err = d.refused(e)
	case e.StatusCode >= 500 || e.StatusCode == 0 && e.Code == "" || e.StatusCode == http.StatusTooManyRequests:
		err = fmt.Errorf("%w: %w", store.ErrNetwork, err)
	}
	if path == "." {
		return fmt.Errorf("s3store: %s: %w", d, err)
	}
	return fmt.Errorf("s3store: %s/%s: %w", d, path, err)
}

// refusal reports whether an answer is about who asks. Not all of these have the
// status that says so.
func refusal(e minio.ErrorResponse) bool {
	switch e.Code {
	case "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidRegion", "InvalidToken", "PermanentRedirect":
		return true
	}
	return e.StatusCode == http.StatusUnauthorized || e.StatusCode == http.StatusForbidden
}

func (d *Dir) refused(e minio.ErrorResponse) error {
	r := &RefusedError{Code: e.Code, Text: cmp.Or(e.Message, e.Code)}
	if v, err := d.client.GetCreds(); err == nil && !v.SignerType.IsAnonymous() {
		r.AccessKey = v.AccessKeyID
	}
	return r
}
