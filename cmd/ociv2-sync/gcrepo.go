package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
)

// repoGC are the flags of a collection in a repository.
type repoGC struct {
	keep                      int
	within, keepDeltas, grace age
}

func (o *repoGC) add(f *pflag.FlagSet) {
	o.keepDeltas, o.grace = age(30*day), age(day)
	f.IntVar(&o.keep, "keep", 0, "`NUMBER` of images of each name, 1 or more, those pushed last, whose tags stay; all others go (default: no tag goes)")
	f.Var(&o.within, "keep-within", "how long tags stay after their push, e.g. 90d; older ones go, unless --keep keeps them")
	f.Var(&o.keepDeltas, "keep-deltas", "how long deltas stay whose image of departure has no tag any more")
	f.Var(&o.grace, "grace", "how old a file must be to be removed")
}

// given returns one of the flags that was set, "" for none.
func (o *repoGC) given(cmd *cobra.Command) string {
	for _, name := range []string{"keep", "keep-within", "keep-deltas", "grace"} {
		if cmd.Flags().Changed(name) {
			return name
		}
	}
	return ""
}

const day = 24 * time.Hour

// age is a length of time as a flag: digits and s, m, h, d or w.
type age time.Duration

var ageUnits = []struct {
	suffix string
	unit   time.Duration
}{{"w", 7 * day}, {"d", day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}

func (a *age) String() string {
	for _, u := range ageUnits {
		if d := time.Duration(*a); d > 0 && d%u.unit == 0 && u.suffix != "w" {
			return strconv.FormatInt(int64(d/u.unit), 10) + u.suffix
		}
	}
	return "0"
}

// Type names the kind of value in help texts.
func (a *age) Type() string { return "AGE" }

func (a *age) Set(text string) error {
	if text == "0" {
		*a = 0
		return nil
	}
	for _, u := range ageUnits {
		digits, ok := strings.CutSuffix(text, u.suffix)
		n, err := strconv.ParseInt(digits, 10, 32)
		if ok && err == nil && n >= 0 && time.Duration(n) <= (1<<62)/u.unit {
			*a = age(time.Duration(n) * u.unit)
			return nil
		}
	}
	return fmt.Errorf("%q is not a time such as 12h, 30d or 8w", text)
}

// collectRepo removes from a repository what nothing needs.
func (a *app) collectRepo(cmd *cobra.Command, where string, o *gcOptions) error {
	if o.keep < 1 && cmd.Flags().Changed("keep") {
		return usageError{fmt.Errorf("--keep is 1 or more, not %d; leave it out to keep all", o.keep)}
	}
	clients, err := a.clients([]string{where})
	if err != nil {
		return err
	}
	defer clients.Close()
	opts := repo.CollectOptions{
		Keep: o.keep, KeepWithin: time.Duration(o.within), KeepDeltas: time.Duration(o.keepDeltas), Grace: time.Duration(o.grace),
		DryRun: o.dryRun, Now: time.Now,
	}
	told := ""
	opts.Waiting = func(owners []string) {
		if list := strings.Join(owners, ", "); list != told {
			a.say("waiting for pushes of %s", list)
			told = list
		}
	}
	if o.verbose {
		opts.Removing = func(path string) { a.say("removing %s", path) }
	}
	done, err := transfer.Collect(cmd.Context(), where, clients, opts)
	if err != nil {
		return err
	}
	type count struct {
		Files int   `json:"files"`
		Bytes int64 `json:"bytes"`
	}
	r := struct {
		DryRun     bool     `json:"dryRun"`
		Tags       []string `json:"removedTags"`
		Deltas     int      `json:"removedDeltas"`
		Blobs      count    `json:"removedBlobs"`
		Chunks     count    `json:"removedChunks"`
		Others     count    `json:"removedOthers"`
		KeptBlobs  count    `json:"keptBlobs"`
		KeptChunks count    `json:"keptChunks"`
	}{
		o.dryRun, append([]string{}, done.Tags...), done.Deltas, count(done.Blobs), count(done.Chunks), count(done.Others),
		count(done.KeptBlobs), count(done.KeptChunks),
	}
	return a.print(r, func(w io.Writer) {
		verb := "removed"
		if o.dryRun {
			verb = "would remove"
		}
		for _, tag := range r.Tags {
			fmt.Fprintf(w, "%s tag %s\n", verb, tag)
		}
		if r.Deltas > 0 {
			fmt.Fprintf(w, "%s %d deltas\n", verb, r.Deltas)
		}
		fmt.Fprintf(w, "%s %d chunks, %s, and %d other files, %s; %d chunks, %s, remain\n", verb,
			r.Chunks.Files, human(r.Chunks.Bytes), r.Blobs.Files+r.Others.Files, human(r.Blobs.Bytes+r.Others.Bytes),
			r.KeptChunks.Files, human(r.KeptChunks.Bytes))
	})
}

// inRepo returns the reference of an image in a repository, and false for the
// name of one in the root. A relative path begins with ./ or ../, or has repo: in
// front of it: names have slashes too.
func inRepo(arg string) (string, bool) {
	if ref, ok := strings.CutPrefix(arg, repoPrefix); ok {
		return ref, true
	}
	for _, prefix := range []string{"/", "./", "../"} {
		if strings.HasPrefix(arg, prefix) {
			return arg, true
		}
	}
	return arg, strings.Contains(arg, "://")
}

// untag removes tags from repositories.
func (a *app) untag(cmd *cobra.Command, names []string) error {
	refs := make([]repo.Ref, len(names))
	where := make([]string, len(names))
	for i, name := range names {
		var err error
		if refs[i], err = repo.ParseRef(name); err != nil {
			return err
		}
		if refs[i].Digest != "" {
			return usageError{errors.New("a tag is removed, not a digest")}
		}
		where[i] = refs[i].Repo
	}
	clients, err := a.clients(where)
	if err != nil {
		return err
	}
	defer clients.Close()
	removed := []string{}
	for _, ref := range refs {
		if err := transfer.Untag(cmd.Context(), ref, clients); err != nil {
			return err
		}
		removed = append(removed, ref.String())
	}
	return a.print(struct {
		Removed []string `json:"removed"`
	}{removed}, func(w io.Writer) {
		for _, ref := range removed {
			fmt.Fprintf(w, "removed %s\n", ref)
		}
	})
}
