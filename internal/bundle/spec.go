package bundle

// What config.json holds of the runtime specification.
type (
	spec struct {
		Version     string            `json:"ociVersion"`
		Process     process           `json:"process"`
		Root        rootfs            `json:"root"`
		Hostname    string            `json:"hostname"`
		Mounts      []mount           `json:"mounts"`
		Annotations map[string]string `json:"annotations,omitempty"`
		Linux       linux             `json:"linux"`
	}
	process struct {
		User            user         `json:"user"`
		Args            []string     `json:"args"`
		Env             []string     `json:"env"`
		Cwd             string       `json:"cwd"`
		Capabilities    capabilities `json:"capabilities"`
		NoNewPrivileges bool         `json:"noNewPrivileges"`
	}
	user struct {
		UID        uint32   `json:"uid"`
		GID        uint32   `json:"gid"`
		Additional []uint32 `json:"additionalGids,omitempty"`
	}
	capabilities struct {
		Bounding  []string `json:"bounding"`
		Effective []string `json:"effective"`
		Permitted []string `json:"permitted"`
	}
	rootfs struct {
		Path string `json:"path"`
	}
	mount struct {
		Destination string   `json:"destination"`
		Type        string   `json:"type"`
		Source      string   `json:"source"`
		Options     []string `json:"options,omitempty"`
	}
	linux struct {
		Namespaces    []namespace `json:"namespaces"`
		MaskedPaths   []string    `json:"maskedPaths"`
		ReadonlyPaths []string    `json:"readonlyPaths"`
	}
	namespace struct {
		Type string `json:"type"`
	}
)

// baseSpec is all that does not come from the image: the filesystems that programs
// expect, a container of its own in every respect, and the capabilities that
// docker and podman give to one.
func baseSpec() *spec {
	caps := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE",
		"CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
	return &spec{
		Version:  "1.0.2",
		Process:  process{Capabilities: capabilities{caps, caps, caps}},
		Root:     rootfs{"rootfs"},
		Hostname: "container",
		Mounts: []mount{
			{"/proc", "proc", "proc", []string{"nosuid", "noexec", "nodev"}},
			{"/dev", "tmpfs", "tmpfs", []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{"/dev/pts", "devpts", "devpts", []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{"/dev/shm", "tmpfs", "shm", []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{"/dev/mqueue", "mqueue", "mqueue", []string{"nosuid", "noexec", "nodev"}},
			{"/sys", "sysfs", "sysfs", []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: linux{
			Namespaces: []namespace{{"pid"}, {"network"}, {"ipc"}, {"uts"}, {"mount"}},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}
