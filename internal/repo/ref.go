package repo

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// DefaultTag is the tag of a reference that has none.
const DefaultTag = "latest"

// Ref names an image in a repository: docs/format/repository.md, section 2.
type Ref struct {
	// Repo is a path or a URL without a slash at its end (but for "/").
	Repo string
	// Name is the image's name, which may have several components.
	Name string
	// Tag and Digest: exactly one of them is set.
	Tag    string
	Digest digest.Digest
	// Platform, OS/ARCH[/VARIANT], picks one of the images of a tag: "" is the
	// machine's where there are several. It is no part of the reference's text.
	Platform string
	// Registry says that this is an image in a registry, whose URL Repo is, to which
	// what a repository has is attached: docs/format/repository.md, section 9.
	Registry bool
}

// RegistryRef names an image in the registry at a URL, by a tag or a digest. A name
// that no image in a repository can have is ErrRef.
func RegistryRef(registry, name, reference string) (Ref, error) {
	r := Ref{Repo: registry, Name: name, Registry: true}
	err := checkName(name)
	if d := digest.Digest(reference); d.Validate() == nil {
		r.Digest = d
	} else if r.Tag = reference; err == nil {
		err = checkTag(reference)
	}
	if err != nil {
		return Ref{}, fmt.Errorf("%w: %s: %w", ErrRef, r, err)
	}
	return r, nil
}

// Remote reports whether the repository is a URL.
func (r Ref) Remote() bool { return isRemote(r.Repo) }

func isRemote(repo string) bool { return schemePattern.MatchString(repo) }

// String gives the reference without the user and the query that a URL may
// have, for messages.
func (r Ref) String() string {
	repo := r.Repo
	if r.Remote() {
		if u, err := url.Parse(repo); err == nil {
			u.User, u.RawQuery = nil, ""
			repo = u.String()
		}
	}
	sep := "/"
	if strings.Contains(r.Name, "/") {
		sep = "//"
	}
	if r.Registry {
		_, host, _ := strings.Cut(repo, "://")
		repo, sep = "docker://"+host, "/"
	}
	s := strings.TrimSuffix(repo, "/") + sep + r.Name
	if first, _, _ := strings.Cut(s, "/"); !r.Remote() && strings.Contains(first, ":") {
		s = "./" + s // a directory, not a scheme
	}
	if r.Digest != "" {
		return s + "@" + r.Digest.String()
	}
	return s + ":" + r.Tag
}

var (
	schemePattern = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*)://`)
	tagPattern    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	namePattern   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
)

// schemes are those of URLs that a repository can have.
var schemes = []string{"http", "https", "ssh", "sftp", "s3"}

// ParseRef reads REPO/NAME[:TAG|@sha256:DIGEST], where REPO is a path or a URL
// of http(s), ssh, sftp or s3; a query of an http(s) URL stays with REPO. Its errors wrap ErrRef.
func ParseRef(s string) (Ref, error) {
	r, err := parseRef(s)
	if err != nil {
		return Ref{}, fmt.Errorf("%w: %q: %w", ErrRef, Redact(s), err)
	}
	return r, nil
}

// Redact hides what may be a password in a URL.
func Redact(s string) string {
	if m := schemePattern.FindString(s); m != "" {
		rest := s[len(m):]
		if end := strings.IndexByte(rest, '/'); end > 0 {
			if at := strings.LastIndexByte(rest[:end], '@'); at >= 0 {
				rest = rest[at+1:]
			}
		}
		rest, _, _ = strings.Cut(rest, "?")
		return m + rest
	}
	return s
}

func parseRef(s string) (Ref, error) {
	var query, scheme string
	rest := s
	if strings.HasPrefix(s, "docker://") {
		return Ref{}, errors.New("an image in a registry, not in a repository: pull, plan, why, inspect, ls and diff take what is attached to it, push and convert its layers")
	}
	if rest, ok := strings.CutPrefix(s, "repo:"); ok && schemePattern.MatchString(rest) {
		return Ref{}, errors.New("it can only be an image in a repository here, whose name has no repo: before it")
	}
	if m := schemePattern.FindStringSubmatch(s); m != nil {
		scheme, rest = m[0], s[len(m[0]):]
		if !slices.Contains(schemes, m[1]) {
			return Ref{}, fmt.Errorf("unsupported scheme %q", m[1])
		}
		if strings.HasPrefix(m[1], "http") {
			rest, query, _ = strings.Cut(rest, "?")
		}
	} else if scheme, _, ok := strings.Cut(s, ":/"); ok && slices.Contains(schemes, scheme) {
		return Ref{}, fmt.Errorf("a URL has two slashes after its colon")
	}
	repo, name, ok := splitName(rest)
	if !ok {
		return Ref{}, errors.New("no name after the repository: an image is named REPO/NAME[:TAG], REPO being a directory or its URL")
	}
	r := Ref{Tag: DefaultTag}
	if name, id, ok := strings.Cut(name, "@"); ok {
		r.Name, r.Tag, r.Digest = name, "", digest.Digest(id)
		if err := r.Digest.Validate(); err != nil || r.Digest.Algorithm() != digest.SHA256 {
			return Ref{}, fmt.Errorf("digest %q is not sha256: and 64 hexadecimal digits", id)
		}
	} else if name, tag, ok := strings.Cut(name, ":"); ok {
		r.Name, r.Tag = name, tag
	} else {
		r.Name = name
	}
	if err := checkName(r.Name); err != nil {
		return Ref{}, err
	}
	if r.Digest == "" {
		if err := checkTag(r.Tag); err != nil {
			return Ref{}, err
		}
	}
	if scheme == "" {
		r.Repo = filepath.Clean(repo)
		return r, nil
	}
	r.Repo = scheme + strings.TrimRight(repo, "/")
	if query != "" {
		r.Repo += "?" + query
	}
	u, err := url.Parse(r.Repo)
	if err != nil || u.Host == "" || u.Fragment != "" {
		return Ref{}, fmt.Errorf("not a URL")
	}
	return r, nil
}

// splitName separates the repository from what follows: at the first "//", else
// at the last "/" before a digest or tag.
func splitName(s string) (repo, name string, ok bool) {
	if repo, name, ok := strings.Cut(s, "//"); ok {
		if repo == "" {
			repo = "/"
		}
		return repo, name, true
	}
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return "", "", false
	}
	return s[:max(i, 1)], s[i+1:], true
}

// checkName refuses names that no directory of a repository may have: those
// that would hide or be mistaken for something else in it.
func checkName(name string) error {
	if len(name) > 255 {
		return fmt.Errorf("name of %d bytes", len(name))
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case !namePattern.MatchString(part):
			return fmt.Errorf("name %q", name)
		case strings.HasSuffix(part, ".caidx"):
			return fmt.Errorf("name %q is that of an index: the image is named REPO/NAME[:TAG]", name)
		case part == "blobs", part == "oci-layout", strings.HasSuffix(part, ".castr"),
			strings.HasSuffix(part, ".json"):
			return fmt.Errorf("name %q is reserved", name)
		}
	}
	return nil
}

func checkTag(tag string) error {
	switch {
	case !tagPattern.MatchString(tag):
		return fmt.Errorf("tag %q is not 1 to 128 letters, digits, \"_\", \".\" and \"-\"", tag)
	case tag == "index", tag == "catalog":
		return fmt.Errorf("tag %q is reserved", tag)
	}
	return nil
}
