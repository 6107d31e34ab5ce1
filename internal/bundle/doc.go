// Package bundle makes the config.json of an OCI runtime bundle from an image
// config, as the image specification converts one into the other:
// docs/format/export.md, section 5.
package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrConfig says that an image config cannot be converted: it is malformed, or
// names a user whom the image does not know.
var ErrConfig = errors.New("image config cannot be converted")

// ReadFile reads a file of the image, symbolic links followed inside it. It returns an
// error that is fs.ErrNotExist where there is none.
type ReadFile func(path string) ([]byte, error)

// defaultPath is the PATH of a process whose image sets none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Config returns the config.json, for a filesystem in rootfs beside it, that runs what
// config, the image's, says: its entrypoint and command (a shell where it has neither), in
// its environment, as its user. read is asked for /etc/passwd and /etc/group.
func Config(config []byte, read ReadFile) ([]byte, error) {
	var image ocispec.Image
	if err := json.Unmarshal(config, &image); err != nil {
		return nil, fmt.Errorf("bundle: %w: %w", ErrConfig, err)
	}
	c := &image.Config
	u, home, err := lookUp(c.User, read)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	s := baseSpec()
	s.Process.User = *u
	s.Process.Args = slices.Concat(c.Entrypoint, c.Cmd)
	if len(s.Process.Args) == 0 {
		s.Process.Args = []string{"sh"}
	}
	s.Process.Env = environment(c.Env, home)
	if s.Process.Cwd = c.WorkingDir; !strings.HasPrefix(s.Process.Cwd, "/") {
		s.Process.Cwd = "/" + s.Process.Cwd
	}
	for _, v := range slices.Sorted(maps.Keys(c.Volumes)) {
		s.Mounts = append(s.Mounts, mount{v, "tmpfs", "tmpfs", []string{"rw", "nosuid", "nodev", "relatime"}})
	}
	s.Annotations = annotations(&image)
	b, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	return append(b, '\n'), nil
}

// environment adds to an image's variables those that nothing works without.
func environment(env []string, home string) []string {
	has := func(name string) bool {
		return slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	}
	env = slices.Clone(env)
	if !has("PATH") {
		env = append(env, defaultPath)
	}
	if home != "" && !has("HOME") {
		env = append(env, "HOME="+home)
	}
	return env
}

// annotations are those that the image specification wants of a conversion. The labels
// of the image have precedence.
func annotations(image *ocispec.Image) map[string]string {
	const prefix = "org.opencontainers.image."
	a := map[string]string{
		prefix + "os": image.OS, prefix + "architecture": image.Architecture, prefix + "variant": image.Variant,
		prefix + "os.version": image.OSVersion, prefix + "os.features": strings.Join(image.OSFeatures, ","),
		prefix + "author": image.Author, prefix + "stopSignal": image.Config.StopSignal,
		prefix + "exposedPorts": strings.Join(slices.Sorted(maps.Keys(image.Config.ExposedPorts)), ","),
	}
	if image.Created != nil {
		a[prefix+"created"] = image.Created.Format(time.RFC3339Nano)
	}
	maps.DeleteFunc(a, func(_, v string) bool { return v == "" })
	maps.Copy(a, image.Config.Labels)
	return a
}
