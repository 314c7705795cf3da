# shellcheck shell=bash
# bash completion for cairnctl. Verbs and options come from cairnctl's own --help, so that they are
# those of the cairnctl that is installed; nothing here talks to cairnd.

# The options that a help text explains: those of the usage line, and those that begin a line.
_cairnctl_options() {
	"$@" --help 2>/dev/null | awk '
		NR > 1 && !/^  --/ { next }
		{
			sub(/^ +/, "")
			if (NR > 1) sub(/  .*/, "") # what follows is the explanation
			while (match($0, /--[a-z][a-z-]*/)) {
				print substr($0, RSTART, RLENGTH)
				$0 = substr($0, RSTART + RLENGTH)
			}
		}'
}

_cairnctl_verbs() {
	"$1" --help 2>/dev/null | awk '/^Verbs:/ { on = 1; next } /^$/ { on = 0 } on { print $1 }'
}

_cairnctl() {
	local program=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	local verb='' sub='' i words=''
	program=${program/#\~/$HOME}
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--socket | --address | --tls-* | --dir | --name | --out) ((i++)) ;; # its value is no verb
		-*) ;;
		*)
			if [[ -z $verb ]]; then
				verb=${COMP_WORDS[i]}
			elif [[ -z $sub ]]; then
				sub=${COMP_WORDS[i]}
			fi
			;;
		esac
	done
	COMPREPLY=()
	case $before in
	--socket | --file | --metadata | --tls-cert | --tls-key | --tls-ca)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
		return
		;;
	--dir | --out)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -d -- "$word")
		return
		;;
	--nodes) words='all' ;;
	--state) words='cached referenced' ;;
	--containerd-version) words='1.6 1.7 2.x' ;;
	--platform) words='all node linux/amd64 linux/arm64 linux/arm/v7' ;;
	--address | --tls-server-name | --keep-for | --for | --batch | --pause | --max-failures | --until | --priority | --namespace | --username | --keep | --name | --days | --dns | --ip)
		return
		;;
	esac
	if [[ -n $words ]]; then
		:
	elif [[ -z $verb && $word == -* ]]; then
		words=$(_cairnctl_options "$program")
	elif [[ -z $verb ]]; then
		words=$(_cairnctl_verbs "$program")
	elif [[ $word == -* ]]; then
		words="$(_cairnctl_options "$program" "$verb") $(_cairnctl_options "$program")"
		words=${words//--version/}
	elif [[ $verb == certs && -z $sub ]]; then
		words='init issue'
	elif [[ $verb == import || $verb == export ]]; then
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -d -- "$word")
		return
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}

complete -F _cairnctl cairnctl
