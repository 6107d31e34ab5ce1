package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"
)

// image reads the tables of a small image.
func image(path string) ([]byte, error) {
	switch path {
	case "etc/passwd":
		return []byte("# no entry\nroot:x:0:0:root:/root:/bin/sh\napp:x:1000:100:App:/home/app:/bin/sh\nbad:x:many:1:::\n1001:x:7:8::/odd:\n"), nil
	case "etc/group":
		return []byte("root:x:0:\nusers:x:100:\nmany:x:50:app,root\nnone:x:60\nother:x:40:app\nmany2:x:50:app\n"), nil
	}
	return nil, fs.ErrNotExist
}

func empty(string) ([]byte, error) { return nil, fs.ErrNotExist }

func TestUser(t *testing.T) {
	for _, c := range []struct {
		user     string
		read     ReadFile
		uid, gid uint32
		more     []uint32
		home     string
	}{
		{"", image, 0, 0, []uint32{0, 50}, "/root"},
		{"root", image, 0, 0, []uint32{0, 50}, "/root"},
		{"app", image, 1000, 100, []uint32{40, 50, 100}, "/home/app"},
		{"1000", image, 1000, 100, []uint32{40, 50, 100}, "/home/app"},
		{"1000:", image, 1000, 100, []uint32{40, 50, 100}, "/home/app"},
		{"app:many", image, 1000, 50, []uint32{50}, "/home/app"},
		{"app:61", image, 1000, 61, []uint32{61}, "/home/app"},
		{"1001", image, 7, 8, []uint32{8}, "/odd"},
		{"77", image, 77, 0, []uint32{0}, ""},
		{"77:88", image, 77, 88, []uint32{88}, ""},
		{":many", image, 0, 50, []uint32{50}, "/root"},
		{"", empty, 0, 0, []uint32{0}, ""},
		{"5:6", empty, 5, 6, []uint32{6}, ""},
	} {
		u, home, err := lookUp(c.user, c.read)
		if err != nil {
			t.Errorf("%q: %v", c.user, err)
			continue
		}
		if u.UID != c.uid || u.GID != c.gid || !slices.Equal(u.Additional, c.more) || home != c.home {
			t.Errorf("%q: %+v %s", c.user, u, home)
		}
	}
	for _, bad := range []string{"nobody", "app:nogroup", "-1", "4294967295", "99999999999", "bad"} {
		if _, _, err := lookUp(bad, image); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
	broken := errors.New("broken")
	if _, _, err := lookUp("", func(string) ([]byte, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

func TestConfig(t *testing.T) {
	config := `{"created":"2024-01-02T03:04:05Z","author":"A","architecture":"arm","variant":"v7","os":"linux","config":{
		"User":"app","ExposedPorts":{"80/tcp":{},"22/tcp":{}},"Env":["A=b","PATH=/x"],"Entrypoint":["/e"],"Cmd":["c"],
		"Volumes":{"/v2":{},"/v1":{}},"WorkingDir":"w","Labels":{"l":"m","org.opencontainers.image.author":"B"},"StopSignal":"SIGUSR1"}}`
	b, err := Config([]byte(config), image)
	if err != nil {
		t.Fatal(err)
	}
	var s spec
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(s.Process.User, s.Process.Args, s.Process.Env, s.Process.Cwd, s.Mounts[len(s.Mounts)-2:], s.Annotations)
	want := "{1000 100 [40 50 100]} [/e c] [A=b PATH=/x HOME=/home/app]/w" +
		"[{/v1 tmpfs tmpfs [rw nosuid nodev relatime]} {/v2 tmpfs tmpfs [rw nosuid nodev relatime]}] map[l:m " +
		"org.opencontainers.image.architecture:arm org.opencontainers.image.author:B org.opencontainers.image.created:2024-01-02T03:04:05Z " +
		"org.opencontainers.image.exposedPorts:22/tcp,80/tcp org.opencontainers.image.os:linux " +
		"org.opencontainers.image.stopSignal:SIGUSR1 org.opencontainers.image.variant:v7]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if again, err := Config([]byte(config), image); err != nil || string(again) != string(b) {
		t.Error("the same config gives another one")
	}
	if b, err = Config([]byte(`{}`), empty); err != nil {
		t.Fatal(err)
	}
	s = spec{}
	if err := json.Unmarshal(b, &s); err != nil || fmt.Sprint(s.Process.Args, s.Process.Cwd) != "[sh]/" {
		t.Errorf("%v %+v", err, s.Process)
	}
	if _, err := Config([]byte("x"), empty); !errors.Is(err, ErrConfig) {
		t.Errorf("error %v", err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"config":{"User":"a:b"}}`), []byte("a:x:1:2:::"), []byte("b:x:1:a,b"))
	f.Fuzz(func(t *testing.T, config, passwd, group []byte) {
		_, err := Config(config, func(path string) ([]byte, error) {
			if path == "etc/passwd" {
				return passwd, nil
			}
			return group, nil
		})
		if err != nil && !errors.Is(err, ErrConfig) {
			t.Errorf("error %v", err)
		}
	})
}
