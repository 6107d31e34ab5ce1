package repo

import (
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"strings"
)

// Store tells where the image's chunks are: a path for an image in a directory,
// a URL otherwise (docs/format/repository.md, section 6). A place
// outside the repository's directory, or on another host, is ErrOutside unless
// anywhere allows it; from a URL to a path, and from https to http, there is no
// way.
func (im *Image) Store(anywhere bool) (string, error) {
	ref := im.Manifest.Store
	var at string
	var err error
	switch {
	case !im.Ref.Remote():
		at, err = localStore(im.Ref, ref, anywhere)
	case strings.HasPrefix(im.Ref.Repo, "http"):
		at, err = remoteStore(im.Ref, ref, anywhere)
	default:
		at, err = farStore(im.Ref, ref, anywhere)
	}
	if err != nil {
		return "", fmt.Errorf("repo: %s: chunk store %q: %w", im.Ref, ref, err)
	}
	return at, nil
}

// StoreAt is Store for the same image in another place of its repository.
func (im *Image) StoreAt(repo string, anywhere bool) (string, error) {
	there := Image{Ref: im.Ref, Manifest: im.Manifest}
	there.Ref.Repo = strings.TrimRight(repo, "/")
	return there.Store(anywhere)
}

func remoteStore(r Ref, ref string, anywhere bool) (string, error) {
	base, err := url.Parse(r.Repo)
	if err != nil {
		return "", malformed("%w", err)
	}
	query := base.RawQuery
	base = base.JoinPath(r.Name, "/")
	to, err := base.Parse(ref)
	switch {
	case err != nil:
		return "", malformed("%w", err)
	case to.Scheme != "https" && to.Scheme != "http" || to.Host == "":
		return "", fmt.Errorf("%w: not an http(s) URL", ErrOutside)
	case base.Scheme == "https" && to.Scheme != "https":
		return "", fmt.Errorf("%w: a step from https to http", ErrOutside)
	}
	if to.Scheme == base.Scheme && strings.EqualFold(to.Host, base.Host) {
		// The query of a signed URL holds for everything below it.
		if to.RawQuery == "" {
			to.RawQuery = query
		}
		to.User = base.User
	} else if !anywhere {
		return "", fmt.Errorf("%w: host %s", ErrOutside, to.Host)
	}
	to.Fragment, to.RawFragment = "", ""
	to.Path, to.RawPath = strings.TrimSuffix(to.Path, "/"), strings.TrimSuffix(to.RawPath, "/")
	return to.String(), nil
}

// farStore is for a directory that is reached otherwise than by http(s): a store
// is in the directory, or on the web.
func farStore(r Ref, ref string, anywhere bool) (string, error) {
	to, err := url.Parse(ref)
	if err != nil {
		return "", malformed("%w", err)
	}
	if anywhere && (to.Scheme == "http" || to.Scheme == "https") && to.Host != "" {
		return strings.TrimSuffix(ref, "/"), nil
	}
	rel := path.Join(r.Name, to.Path)
	if to.Scheme != "" || to.Host != "" || to.RawQuery != "" || strings.HasPrefix(to.Path, "/") || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("%w: not in the repository's directory", ErrOutside)
	}
	return r.Repo + "/" + rel, nil
}

func localStore(r Ref, ref string, anywhere bool) (string, error) {
	to, err := url.Parse(ref)
	if err != nil {
		return "", malformed("%w", err)
	}
	if to.Scheme != "" || to.Host != "" || to.RawQuery != "" {
		if !anywhere || to.Scheme != "http" && to.Scheme != "https" {
			return "", fmt.Errorf("%w: not in the repository's directory", ErrOutside)
		}
		return strings.TrimSuffix(ref, "/"), nil
	}
	if strings.HasPrefix(to.Path, "/") {
		if !anywhere {
			return "", fmt.Errorf("%w: not in the repository's directory", ErrOutside)
		}
		return filepath.Clean(to.Path), nil
	}
	rel := filepath.Join(filepath.FromSlash(r.Name), filepath.FromSlash(to.Path))
	if !anywhere && !filepath.IsLocal(rel) {
		return "", fmt.Errorf("%w: not in the repository's directory", ErrOutside)
	}
	return filepath.Join(r.Repo, rel), nil
}
