package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	ocireg "oras.land/oras-go/v2/registry"
)

// config is what files in the format of containers-registries.conf(5), version 2, say
// of registries.
type config []configured

// configured says where the images are whose names begin with Prefix, on a boundary.
type configured struct {
	Prefix     string             `toml:"prefix"`
	Location   string             `toml:"location"`
	Insecure   bool               `toml:"insecure"`
	Blocked    bool               `toml:"blocked"`
	DigestOnly bool               `toml:"mirror-by-digest-only"`
	Mirrors    []configuredMirror `toml:"mirror"`

	file string
}

type configuredMirror struct {
	Location string `toml:"location"`
	Insecure bool   `toml:"insecure"`
	From     string `toml:"pull-from-mirror"`
}

// readConfig reads files, and the files *.conf of directories. What the later ones say
// of a prefix holds; those that do not exist are passed over.
func readConfig(paths []string) (config, error) {
	var c config
	for _, path := range paths {
		files := []string{path}
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			if files, err = filepath.Glob(filepath.Join(path, "*.conf")); err != nil {
				return nil, err
			}
		}
		for _, file := range files {
			var err error
			if c, err = c.with(file); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return c, nil
}

// with adds what a file says.
func (c config) with(file string) (config, error) {
	var parsed struct {
		Registry   []configured   `toml:"registry"`
		Registries map[string]any `toml:"registries"`
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = toml.Unmarshal(b, &parsed)
	}
	if err == nil && parsed.Registries != nil {
		err = errors.New("it is in the form of version 1; want [[registry]] tables")
	}
	if err != nil {
		return nil, err
	}
	for _, r := range parsed.Registry {
		r.file = file
		if r.Prefix == "" {
			r.Prefix = r.Location
		}
		if err := r.check(); err != nil {
			return nil, err
		}
		c = slices.DeleteFunc(c, func(old configured) bool { return old.Prefix == r.Prefix })
		c = append(c, r)
	}
	return c, nil
}

// check refuses what is no place, and cleans what is.
func (r *configured) check() error {
	if strings.Trim(r.Prefix, "*./") == "" {
		return errors.New("a registry without prefix and location")
	}
	places := []*string{&r.Prefix, &r.Location}
	for i := range r.Mirrors {
		m := &r.Mirrors[i]
		if m.Location == "" || !slices.Contains([]string{"", "all", "digest-only", "tag-only"}, m.From) {
			return fmt.Errorf("registry %q: a mirror without location, or with pull-from-mirror = %q", r.Prefix, m.From)
		}
		places = append(places, &m.Location)
	}
	for _, p := range places {
		if *p = strings.TrimRight(*p, "/"); strings.Contains(*p, "://") {
			return fmt.Errorf("registry %q: %q is no HOST[:PORT][/PATH]", r.Prefix, *p)
		}
	}
	return nil
}

// covers returns how much of name r is about: up to where its prefix ends, or -1. A
// prefix *.DOMAIN is about all hosts below DOMAIN.
func (r *configured) covers(name string) int {
	end := len(r.Prefix)
	if domain, ok := strings.CutPrefix(r.Prefix, "*"); ok {
		at := strings.Index(name, domain)
		if at < 1 || strings.Contains(name[:at], "/") {
			return -1
		}
		end = at + len(domain)
	} else if !strings.HasPrefix(name, r.Prefix) {
		return -1
	}
	if end < len(name) && name[end] != '/' && name[end] != ':' {
		return -1
	}
	return end
}

// endpoint is one place that has, or may have, the images of a name.
type endpoint struct {
	ocireg.Reference
	insecure bool
}

// endpoints returns where to ask for the image r, the registry itself as the last, and
// whether the registry may be insecure.
func (c config) endpoints(r ocireg.Reference) (list []endpoint, insecure bool, err error) {
	name := r.Registry + "/" + r.Repository
	var best *configured
	for i := range c {
		if c[i].covers(name) >= 0 && (best == nil || len(c[i].Prefix) > len(best.Prefix)) {
			best = &c[i]
		}
	}
	plain := endpoint{ocireg.Reference{Registry: r.Registry, Repository: r.Repository}, false}
	if best == nil {
		return []endpoint{plain}, false, nil
	}
	if best.Blocked {
		return nil, false, fmt.Errorf("%w: %s blocks %s", ErrDenied, best.file, best.Prefix)
	}
	rest := name[best.covers(name):]
	at := func(location string, insecure bool) endpoint {
		host, path, _ := strings.Cut(location+rest, "/")
		return endpoint{ocireg.Reference{Registry: host, Repository: path}, insecure}
	}
	byDigest := r.ValidateReferenceAsDigest() == nil
	for _, m := range best.Mirrors {
		if best.DigestOnly && m.From == "" {
			m.From = "digest-only"
		}
		if m.From == "digest-only" && !byDigest || m.From == "tag-only" && byDigest {
			continue
		}
		list = append(list, at(m.Location, m.Insecure))
	}
	plain.insecure = best.Insecure
	if best.Location != "" {
		plain = at(best.Location, best.Insecure)
	}
	return append(list, plain), best.Insecure, nil
}
