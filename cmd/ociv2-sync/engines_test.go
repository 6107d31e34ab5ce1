package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// hello says where it is, who runs it and what of its config it was given.
const hello = `package main

import (
	"fmt"
	"os"
)

func main() {
	dir, _ := os.Getwd()
	groups, _ := os.Getgroups()
	fmt.Println("inside", os.Getuid(), os.Getgid(), groups, dir, os.Getenv("GREETING"), os.Args[1:])
}
`

// said is what hello says when it runs as the image's config wants.
const said = "inside 1234 567 [89 567] /work good day [a b]"

// buildHello makes an image of hello with umoci, in an OCI layout under the name v1.
func buildHello(t *testing.T) (layout string) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "hello.go"), []byte(hello), 0o644))
	rootfs := filepath.Join(dir, "rootfs")
	for _, d := range []string{"bin", "etc", "work", "private"} {
		must(t, os.MkdirAll(filepath.Join(rootfs, d), 0o755))
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(rootfs, "bin/hello"), "hello.go")
	build.Dir = dir
	build.Env = append(build.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// The user's table is where an absolute link leads, seen from inside.
	must(t, os.WriteFile(filepath.Join(rootfs, "private/passwd"), []byte("root:x:0:0::/root:/bin/sh\napp:x:1234:567::/work:/bin/hello\n"), 0o600))
	must(t, os.Symlink("/private/passwd", filepath.Join(rootfs, "etc/passwd")))
	must(t, os.WriteFile(filepath.Join(rootfs, "etc/group"), []byte("app:x:567:\nmore:x:89:other,app\n"), 0o644))
	layout = filepath.Join(dir, "layout")
	for _, args := range [][]string{
		{"init", "--layout", layout},
		{"new", "--image", layout + ":v1"},
		{"insert", "--image", layout + ":v1", rootfs, "/"},
		{
			"config", "--image", layout + ":v1", "--config.user", "app", "--config.workingdir", "/work",
			"--config.env", "GREETING=good day", "--config.entrypoint", "/bin/hello", "--config.cmd", "a", "--config.cmd", "b",
		},
	} {
		output(t, "umoci", args...)
	}
	return layout
}

// output runs a program and returns what it prints.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// engine prepares an image that has been pushed, and a device to pull it to.
func engine(t *testing.T, tools ...string) (d *device, ref string) {
	t.Helper()
	testutil.NeedRoot(t)
	for _, tool := range append(tools, "umoci") {
		testutil.Need(t, tool)
	}
	d = newDevice(t)
	ref = filepath.Join(t.TempDir(), "repo/hello:1")
	d.must("push", "oci:"+buildHello(t)+":v1", ref)
	return d, ref
}

func says(t *testing.T, got string) {
	t.Helper()
	if !strings.Contains(got, said) {
		t.Errorf("it says %q, want %q", got, said)
	}
}

func TestRuncRunsBundle(t *testing.T) {
	d, ref := engine(t, "runc")
	bundle := filepath.Join(t.TempDir(), "bundle")
	d.must("pull", ref, "bundle:"+bundle)
	says(t, output(t, "runc", "--root", t.TempDir(), "run", "--bundle", bundle, "ociv2-sync-test"))
}

func TestPodmanRunsArchive(t *testing.T) {
	d, ref := engine(t, "podman")
	dir := t.TempDir()
	d.must("pull", ref, "docker-archive:"+dir+"/a.tar:ociv2-sync-test:v1")
	podman := []string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs", "--runtime", "runc", "--cgroup-manager=cgroupfs"}
	output(t, "podman", append(podman, "load", "--input", dir+"/a.tar")...)
	says(t, output(t, "podman", append(podman, "run", "--rm", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
		"--network=none", "localhost/ociv2-sync-test:v1")...))
}

func TestContainerdRunsLayout(t *testing.T) {
	d, ref := engine(t, "ctr", "containerd")
	dir := t.TempDir()
	d.must("pull", "--compression", "zstd", ref, "oci-archive:"+dir+"/a.tar:v1")
	ctr := startContainerd(t, dir)
	ctr("image", "import", "--base-name", "ours", "--snapshotter", "native", dir+"/a.tar")
	says(t, ctr("run", "--rm", "--snapshotter", "native", "ours:v1", "ociv2-sync-test"))
}

// startContainerd runs a containerd whose storage is dir/root, and returns how to
// talk to it.
func startContainerd(t *testing.T, dir string) (ctr func(args ...string) string) {
	t.Helper()
	socket := dir + "/s"
	server := exec.Command("containerd", "--root", dir+"/root", "--state", dir+"/state", "--address", socket)
	must(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Signal(os.Interrupt)
		_ = server.Wait()
	})
	for range 100 {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return func(args ...string) string {
		t.Helper()
		return output(t, "ctr", append([]string{"--address", socket}, args...)...)
	}
}

// What engines have in their storage is not fetched, and their storage stays as it
// was.
func TestEngineStorageIsSeed(t *testing.T) {
	d, ref := engine(t, "skopeo", "ctr", "containerd")
	dir := t.TempDir()
	d.must("pull", ref, "oci-archive:"+dir+"/a.tar:v1")
	for _, driver := range []string{"overlay", "vfs"} {
		output(t, "skopeo", "copy", "-q", "oci-archive:"+dir+"/a.tar:v1",
			"containers-storage:["+driver+"@"+dir+"/"+driver+"+"+dir+"/run]localhost/hello:v1")
	}
	t.Cleanup(func() { _ = unix.Unmount(dir+"/overlay/overlay", 0) }) // that it mounts on itself
	output(t, "skopeo", "copy", "-q", "--dest-compress-format", "zstd:chunked", "oci-archive:"+dir+"/a.tar:v1", "oci:"+dir+"/chunked:v1")
	ctr := startContainerd(t, dir)
	snapshotter := "overlayfs"
	if !strings.Contains(ctr("plugins", "ls"), "overlayfs                linux/amd64    ok") {
		snapshotter = "native" // it lies on a filesystem that overlayfs cannot use
	}
	ctr("image", "import", "--base-name", "ours", "--snapshotter", snapshotter, dir+"/a.tar")
	ctr("leases", "create", "--id", "settle")
	ctr("leases", "delete", "--sync", "settle") // it collects what the import left now, and not in the middle of a test
	for name, path := range map[string]string{
		"overlay": dir + "/overlay", "vfs": dir + "/vfs", "containerd": dir + "/root",
		"snapshots": dir + "/root/io.containerd.snapshotter.v1." + snapshotter,
		"chunked":   dir + "/chunked",
		"content":   dir + "/root/io.containerd.content.v1.content",
	} {
		t.Run(name, func(t *testing.T) {
			const all = "find . -printf '%p %s %T@ %C@ ' -type f -printf '%A@' -printf '\\n' -o -printf '\\n' | sort"
			before := output(t, "sh", "-c", "cd "+path+" && "+all)
			device := newDevice(t)
			got := device.must("--json", "pull", "--seed", path, ref, "rootfs:"+t.TempDir()+"/x")
			if !strings.Contains(got.stdout, `"requests": 2,`) {
				t.Errorf("not all of it was found: %s", got.stdout)
			}
			if after := output(t, "sh", "-c", "cd "+path+" && "+all); before != after {
				t.Errorf("it was\n%s\nis\n%s", before, after)
			}
		})
	}
}
