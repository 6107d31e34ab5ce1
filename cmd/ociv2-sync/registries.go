package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/ociv2-sync/ociv2-sync/internal/registry"
)

// registryFlags say how registries are talked to.
type registryFlags struct {
	authFile  string
	plainHTTP bool
	mirrors   []string
}

func (o *registryFlags) add(f *pflag.FlagSet) {
	f.StringVar(&o.authFile, "authfile", "", "`FILE` with credentials for registries, as docker and podman write it (default theirs)")
	f.BoolVar(&o.plainHTTP, "plain-http", false, "talk HTTP, not HTTPS, to registries")
	f.StringArrayVar(&o.mirrors, "registry-mirror", nil, "`HOST=MIRROR` to ask for images before the registry HOST, a host[:port][/path], with http:// before it if it is to be plain HTTP; repeatable")
}

// options returns what the flags mean.
func (o *registryFlags) options(a *app) (registry.Options, error) {
	r := registry.Options{AuthFiles: []string{o.authFile}, PlainHTTP: o.plainHTTP, Retries: a.retry, RateLimit: int64(a.limitRate)}
	if o.authFile == "" {
		r.AuthFiles = a.authFiles()
	}
	r.ConfigFiles, r.CertDirs = a.registryConfig()
	for _, s := range o.mirrors {
		m, err := registry.ParseMirror(s)
		if err != nil {
			return r, err
		}
		r.Mirrors = append(r.Mirrors, m)
	}
	var err error
	r.TLS, err = a.clientTLS()
	return r, err
}

// authFiles returns where podman and docker keep credentials.
func (a *app) authFiles() (files []string) {
	get := func(name string) string { v, _ := a.env(name); return v }
	add := func(dir string, names ...string) {
		if dir != "" {
			files = append(files, filepath.Join(append([]string{dir}, names...)...))
		}
	}
	add(get("REGISTRY_AUTH_FILE"))
	add(get("XDG_RUNTIME_DIR"), "containers/auth.json")
	add(get("HOME"), ".config/containers/auth.json")
	add(get("DOCKER_CONFIG"), "config.json")
	add(get("HOME"), ".docker/config.json")
	return files
}

// registryConfig returns where podman and docker are told of registries: their files, and
// the directories with their certificates.
func (a *app) registryConfig() (files, certDirs []string) {
	const system, name = "/etc/containers", "registries.conf"
	user := ""
	if home, _ := a.env("HOME"); home != "" {
		user = filepath.Join(home, ".config/containers")
		certDirs = append(certDirs, filepath.Join(user, "certs.d"))
	}
	certDirs = append(certDirs, system+"/certs.d", "/etc/docker/certs.d")
	if file, _ := a.env("CONTAINERS_REGISTRIES_CONF"); file != "" {
		return []string{file}, certDirs
	}
	files = []string{filepath.Join(system, name), system + "/registries.conf.d"}
	if user == "" {
		return files, certDirs
	}
	// The user's file takes the place of the system's.
	if _, err := os.Stat(filepath.Join(user, name)); err == nil {
		files[0] = filepath.Join(user, name)
	}
	return append(files, filepath.Join(user, "registries.conf.d")), certDirs
}
