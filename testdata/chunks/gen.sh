#!/bin/sh
# Writes what casync makes of fixed inputs: cuts.txt under many chunk sizes,
# small*.caibx as examples of indexes, chunk-*.cacnk as examples of chunk files.
# Needs casync and openssl. Run it here.
set -eu
export LC_ALL=C
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# Half noise, a quarter zero bytes, a quarter noise.
input() { # LENGTH
	openssl enc -aes-128-ctr -K 00000000000000000000000000000000 \
		-iv 00000000000000000000000000000000 -in /dev/zero 2>/dev/null |
		head -c $(($1 / 4 * 3)) >"$dir/noise"
	head -c $(($1 / 2)) "$dir/noise"
	head -c $(($1 / 4)) /dev/zero
	tail -c +$(($1 / 2 + 1)) "$dir/noise"
}

make_index() { # LENGTH SETTING DIGEST
	[ -e "$dir/$1" ] || input "$1" >"$dir/$1"
	rm -rf "$dir/x.castr"
	casync make --chunk-size="$2" --digest="$3" --store="$dir/x.castr" "$dir/x.caibx" "$dir/$1" >/dev/null
}

{
	echo "# Made by gen.sh with $(casync --version | head -n 1)."
	echo "# input length, --chunk-size, chunks, SHA-256 of the .caibx"
	while read -r length settings; do
		for setting in $settings; do
			make_index "$length" "$setting" default
			echo "$length $setting $((($(stat -c %s "$dir/x.caibx") - 104) / 40))" \
				"$(sha256sum "$dir/x.caibx" | cut -d ' ' -f 1)"
		done
	done <<-END
		0 auto
		4 auto 48:48:48
		60000 12 13 16 47 48 63 64 100 1000 1:64:256 20:30:48 40:41:64 47:48:49
		60000 48:48:49 49:49:50 64:64:256 100:100:101 64:256:256 16:64:128M
		60000 32:32:32 47:47:47 48:48:48 49:49:49 100:100:100 60000:60000:60000
		60000 15000:15000:15000 59999:60000:60001
		3145728 1K 4K 16K auto 65535 65537 128K 256K 1M 3000:3000:9000
		3145728 16K:64K:64K 16K:16K:64K 64K:64K:64K 1:128M:128M
		41943040 auto 1M 4M 1M:4M:5M 7M 8M 9M 9324500 9324700 10M 16M 33M 100M 128M
		41943040 1M:9M:9M 1:10M:20M 10M:10M:10M 64:128M:128M
	END
} >cuts.txt
make_index 60000 4K sha256
cp "$dir/x.caibx" small-sha256.caibx
make_index 60000 4K default
cp "$dir/x.caibx" small.caibx

# One chunk in each compression that casync has.
printf 'a chunk, in each form that casync gives it: %0256d\n' 0 >"$dir/chunk"
for c in zstd xz gzip; do
	rm -rf "$dir/c.castr"
	casync make --compression="$c" --store="$dir/c.castr" "$dir/c.caibx" "$dir/chunk" >/dev/null
	cat "$dir"/c.castr/*/*.cacnk >"chunk-$c.cacnk"
done
cp "$dir/chunk" chunk
