package repo

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// plain hides what a Space can do beyond its interface.
type plain struct{ Space }

// spaces calls f with a directory that knows about flock, and with one that
// knows as little as an SFTP server.
func spaces(t *testing.T, f func(t *testing.T, s Space, dir string)) {
	for name, wrap := range map[string]func(*Dir) Space{
		"flock": func(d *Dir) Space { return d },
		"plain": func(d *Dir) Space { return plain{d} },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f(t, wrap(openDir(t, dir)), dir)
		})
	}
}

func TestLock(t *testing.T) {
	spaces(t, func(t *testing.T, s Space, dir string) {
		path := filepath.Join(dir, lockName)
		now := time.Now()
		write := func(l lockFile) {
			t.Helper()
			b, err := json.Marshal(l)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		try := func(want bool) {
			t.Helper()
			l, _, err := tryClaim(t.Context(), s, lockName, now)
			if err != nil || (l != nil) != want {
				t.Fatalf("lock taken: %v, %v, want %t", l, err, want)
			}
			if l == nil {
				return
			}
			if other, _, err := tryClaim(t.Context(), s, lockName, now); err != nil || other != nil {
				t.Fatalf("lock taken twice: %v, %v", other, err)
			}
			if err := l.renew(t.Context(), now); err != nil {
				t.Fatal(err)
			}
			if err := l.release(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		try(true)
		write(lockFile{Owner: "killed:2", Boot: bootID(), Expires: now.Add(time.Hour)})
		_, flock := s.(claimer)
		try(flock)
		write(lockFile{Owner: "far:3", Boot: "there", Expires: now.Add(time.Second)})
		try(false)
		write(lockFile{Owner: "far:3", Boot: "there", Expires: now.Add(-time.Second)})
		try(true)
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		try(false)
		if err := os.Chtimes(path, now, now.Add(-lockTime-time.Minute)); err != nil {
			t.Fatal(err)
		}
		try(true)
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("left %v", left)
		}
		// Whoever lost the lock to another notices.
		l, _, err := tryClaim(t.Context(), s, lockName, now)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		write(lockFile{Owner: "far:3", Boot: "there", Expires: now.Add(time.Hour)})
		if held, err := l.held(t.Context()); held || err != nil {
			t.Error("the lock of another passes for ours", err)
		}
		if err := l.renew(t.Context(), now); !errors.Is(err, errLockLost) {
			t.Errorf("renewed: %v", err)
		}
		if err := l.release(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("the lock of another was removed: %v", err)
		}
	})
}

// late has another do something at the moment at which a lock was found expired.
type late struct {
	Space
	once sync.Once
	hook func()
}

func (l *late) Remove(ctx context.Context, path string) error {
	l.once.Do(l.hook)
	return l.Space.Remove(ctx, path)
}

// Of those who find a lock expired, one gets it.
func TestExpiredLock(t *testing.T) {
	spaces(t, func(t *testing.T, s Space, dir string) {
		dead, err := json.Marshal(lockFile{Owner: "dead:1", ID: "X", Boot: "there", Expires: time.Now().Add(-time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		abandon := func() {
			if err := os.WriteFile(filepath.Join(dir, lockName), dead, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		try := func(s Space) claim {
			c, _, err := tryClaim(t.Context(), s, lockName, time.Now())
			if err != nil {
				t.Error(err)
			}
			return c
		}
		release := func(claims ...claim) (got int) {
			for _, c := range claims {
				if c == nil {
					continue
				}
				got++
				if held, err := c.held(t.Context()); err != nil || !held {
					t.Errorf("a lock that was taken is held: %t, %v", held, err)
				}
				if err := c.release(t.Context()); err != nil {
					t.Error(err)
				}
			}
			return got
		}
		if _, flock := s.(claimer); !flock {
			// One has looked, and is about to remove it, when the other one begins.
			abandon()
			var second claim
			first := try(&late{Space: s, hook: func() { second = try(s) }})
			if n := release(first, second); n != 1 {
				t.Errorf("%d have the lock", n)
			}
		}
		for range 20 {
			abandon()
			var claims [8]claim
			var wg sync.WaitGroup
			begin := make(chan struct{})
			for i := range claims {
				wg.Go(func() {
					<-begin
					claims[i] = try(s)
				})
			}
			close(begin)
			wg.Wait()
			if n := release(claims[:]...); n > 1 {
				t.Fatalf("%d have the lock", n)
			}
			if c := try(s); c != nil { // where each was in the way of the others
				release(c)
			}
		}
		// One died as it removed it: that expires as well, and a push leaves nothing.
		abandon()
		if err := os.WriteFile(filepath.Join(dir, lockName+burySuffix+"x"), dead, 0o644); err != nil {
			t.Fatal(err)
		}
		if release(try(s)) != 1 {
			t.Error("the lock stays expired")
		}
		if err := os.WriteFile(filepath.Join(dir, lockName+burySuffix+"y"), dead, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := Reserve(t.Context(), s, time.Now, func(context.Context) error { return nil }); err != nil {
			t.Error(err)
		}
		left, err := filepath.Glob(filepath.Join(dir, ".*"))
		if err != nil || len(left) != 0 {
			t.Errorf("left %v, %v", left, err)
		}
	})
}

// A tag does not change under a lock that was lost, and whoever waits for a lock
// can be told to stop.
func TestHolding(t *testing.T) {
	spaces(t, func(t *testing.T, s Space, dir string) {
		err := updating(t.Context(), s, time.Now, func(ctx context.Context, u *updater) error {
			wait, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			err := updating(wait, s, time.Now, func(context.Context, *updater) error { return errors.New("two hold the lock") })
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			if err := u.store(ctx, "file", []byte("x"), ""); err != nil {
				t.Error(err)
			}
			if err := os.Remove(filepath.Join(dir, lockName)); err != nil {
				t.Error(err)
			}
			return u.store(ctx, "file", []byte("y"), "")
		})
		if !errors.Is(err, errLockLost) {
			t.Error(err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "file")); string(b) != "x" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	})
}

// A push and a collection see each other, whoever comes first; what the dead
// left is no obstacle.
func TestReserve(t *testing.T) {
	spaces(t, func(t *testing.T, s Space, dir string) {
		dead, err := json.Marshal(lockFile{Owner: "dead:1", Boot: "there", Expires: time.Now().Add(-time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, leasePrefix+"dead"), dead, 0o644); err != nil {
			t.Fatal(err)
		}
		err = Reserve(t.Context(), s, time.Now, func(ctx context.Context) error {
			who, err := leases(ctx, s, time.Now())
			if err != nil || len(who) != 1 {
				t.Errorf("leases %q, %v", who, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		err = holding(t.Context(), s, collectName, time.Now, false, func(ctx context.Context, _ claim) error {
			wait, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			return Reserve(wait, s, time.Now, func(context.Context) error { return errors.New("it was collected under a push") })
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
			t.Errorf("left %s", strings.Join(left, " "))
		}
	})
}
