package repo

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/translate"
)

func TestParseRef(t *testing.T) {
	id := digest.FromString("x")
	tests := []struct {
		in   string
		want Ref
	}{
		{"repo/app", Ref{Repo: "repo", Name: "app", Tag: "latest"}},
		{"./repo/app:1", Ref{Repo: "repo", Name: "app", Tag: "1"}},
		{"/srv/repo/app@" + id.String(), Ref{Repo: "/srv/repo", Name: "app", Digest: id}},
		{"/app:1", Ref{Repo: "/", Name: "app", Tag: "1"}},
		{"/srv//team/app:1", Ref{Repo: "/srv", Name: "team/app", Tag: "1"}},
		{"//team/app", Ref{Repo: "/", Name: "team/app", Tag: "latest"}},
		{"../app", Ref{Repo: "..", Name: "app", Tag: "latest"}},
		{"/srv/a:b/app:v1.2_3-x", Ref{Repo: "/srv/a:b", Name: "app", Tag: "v1.2_3-x"}},
		{"http://host/app", Ref{Repo: "http://host", Name: "app", Tag: "latest"}},
		{"https://host:8443/a/b/app:1", Ref{Repo: "https://host:8443/a/b", Name: "app", Tag: "1"}},
		{"https://host/a//team/app:1", Ref{Repo: "https://host/a", Name: "team/app", Tag: "1"}},
		{"https://host//team/app:1", Ref{Repo: "https://host", Name: "team/app", Tag: "1"}},
		{"https://host/a/app:1?sig=a/b", Ref{Repo: "https://host/a?sig=a/b", Name: "app", Tag: "1"}},
		{"ssh://me@host:22/srv/r/app:1", Ref{Repo: "ssh://me@host:22/srv/r", Name: "app", Tag: "1"}},
		{"sftp://host/~/r//team/app", Ref{Repo: "sftp://host/~/r", Name: "team/app", Tag: "latest"}},
		{"s3://bucket/app", Ref{Repo: "s3://bucket", Name: "app", Tag: "latest"}},
		{"https://user:pw@host/app:1", Ref{Repo: "https://user:pw@host", Name: "app", Tag: "1"}},
	}
	for _, tt := range tests {
		got, err := ParseRef(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("%q: got %+v, %v, want %+v", tt.in, got, err, tt.want)
		}
		if strings.Contains(got.String(), "pw") || strings.Contains(got.String(), "sig") {
			t.Errorf("%q: String shows secrets: %s", tt.in, got)
		}
	}
}

func TestParseRefRefuses(t *testing.T) {
	for _, in := range []string{
		"", "app", "app:1", "repo/", "repo/:1", "repo/app:", "repo/app@sha256:12", "repo/app@md5:12",
		"repo/app:1@" + digest.FromString("x").String(), "repo/app:index", "repo/app:catalog", "repo/app:.x",
		"repo/blobs", "repo/default.castr", "repo//a/blobs", "repo//a/x.castr", "repo//a//b", "repo//../b",
		"repo/..", "repo/.", "repo/.lock", "repo/a b", "repo/x.json", "repo/x.caidx:1", "repo/oci-layout",
		"repo/app:" + strings.Repeat("t", 129), "repo/" + strings.Repeat("n", 129),
		"https://host", "http:/host/app", "ssh:/host/app", "https:///app", "file:///x/app",
		"https://host/a#b/app",
	} {
		if got, err := ParseRef(in); !errors.Is(err, ErrRef) {
			t.Errorf("%q: got %+v, %v", in, got, err)
		}
	}
	_, err := ParseRef("https://user:secret@host/a/?x=secret")
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error shows secrets: %v", err)
	}
	if _, err := ParseRef("ftp://host/repo/app"); err == nil || !strings.Contains(err.Error(), `unsupported scheme "ftp"`) {
		t.Error(err)
	}
}

func FuzzParseRef(f *testing.F) {
	f.Add("https://user@host:1/a//b/c:1?q")
	f.Add("/srv/app@" + digest.FromString("x").String())
	f.Add("./p://00./0")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRef(s)
		if err != nil {
			return
		}
		if (r.Tag == "") == (r.Digest == "") || checkName(r.Name) != nil {
			t.Fatalf("%q: %+v", s, r)
		}
		if r.Remote() {
			return
		}
		if again, err := ParseRef(r.String()); err != nil || again != r {
			t.Fatalf("%q: %+v, then %+v, %v", s, r, again, err)
		}
	})
}

func TestStore(t *testing.T) {
	const outside = "outside"
	tests := []struct {
		ref, store, want, anywhere string
	}{
		{"/srv/r/app:1", "../default.castr/", "/srv/r/default.castr", ""},
		{"r//a/b:1", "../../default.castr/", "r/default.castr", ""},
		{"/srv/r/app:1", "../../x.castr", outside, "/srv/x.castr"},
		{"/srv/r/app:1", "/x.castr", outside, "/x.castr"},
		{"/srv/r/app:1", "https://cdn/x/", outside, "https://cdn/x"},
		{"/srv/r/app:1", "ssh://host/x/", outside, outside},
		{"https://h/r/app:1", "../default.castr/", "https://h/r/default.castr", ""},
		{"https://h/r/app:1?sig=1", "../default.castr/", "https://h/r/default.castr?sig=1", ""},
		{"https://u:p@h/r//a/b:1", "/default.castr/", "https://u:p@h/default.castr", ""},
		{"https://u:p@h/r/app:1?sig=1", "//h2/default.castr/", outside, "https://h2/default.castr"},
		{"https://h/r/app:1", "https://h:8443/x", outside, "https://h:8443/x"},
		{"https://h/r/app:1", "http://h/x", outside, outside},
		{"http://h/r/app:1", "https://h/x", outside, "https://h/x"},
		{"https://h/r/app:1", "file:///etc/x", outside, outside},
		{"https://h/r/app:1", "ssh://h/x", outside, outside},
		{"ssh://h/r/app:1", "../default.castr/", "ssh://h/r/default.castr", ""},
		{"s3://b/r//a/b:1", "../../default.castr/", "s3://b/r/default.castr", ""},
		{"s3://b/app:1", "../../x.castr/", outside, outside},
		{"ssh://h/r/app:1", "/x.castr/", outside, outside},
		{"ssh://h/r/app:1", "ssh://h/r/default.castr", outside, outside},
		{"ssh://h/r/app:1", "https://cdn/x/", outside, "https://cdn/x"},
	}
	for _, tt := range tests {
		im := &Image{Ref: mustRef(t, tt.ref), Manifest: &translate.Manifest{Store: tt.store}}
		for _, anywhere := range []bool{false, true} {
			want := tt.want
			if anywhere && tt.anywhere != "" {
				want = tt.anywhere
			}
			got, err := im.Store(anywhere)
			if want == outside && !errors.Is(err, ErrOutside) || want != outside && (err != nil || got != want) {
				t.Errorf("%s, %s, %t: got %q, %v, want %q", tt.ref, tt.store, anywhere, got, err, want)
			}
		}
	}
	im := &Image{Ref: mustRef(t, "https://h/r/app:1"), Manifest: &translate.Manifest{Store: "%zz"}}
	if _, err := im.Store(true); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}
