"""Chat templates with the structure of those that people's models have, each in the shortest words that keep it."""

_LAST_QUERY = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
)

#: Qwen 2.5 and Hermes: calls in tags, results in a turn of the user.
QWEN25 = (
    "{% if tools %}<|im_start|>system\n"
    "{{ messages[0].content if messages[0].role == 'system' else 'You are helpful.' }}\n<tools>"
    "{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools><|im_end|>\n"
    "{% elif messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' or (m.role == 'system' and not loop.first) "
    "or (m.role == 'assistant' and not m.tool_calls) %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'assistant' %}<|im_start|>assistant"
    "{% if m.content %}{{ '\n' + m.content }}{% endif %}"
    "{% for c in m.tool_calls %}{% if c.function is defined %}{% set c = c.function %}{% endif %}"
    '{{ "\n" }}<tool_call>\n{"name": "{{ c.name }}", "arguments": {{ c.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n"
    "{% elif m.role == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "{{ '\n' }}<tool_response>\n{{ m.content }}\n</tool_response>"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

#: Qwen 3: reasoning in tags, kept only since the last question.
QWEN3 = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    + _LAST_QUERY
    + "{% for m in messages %}{% set content = m.content if m.content is string else '' %}"
    "{% if m.role == 'assistant' %}"
    "{% set thought = m.reasoning_content if m.reasoning_content is string else '' %}<|im_start|>assistant\n"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "<think>\n{{ thought.strip('\n') }}\n</think>\n\n{% endif %}"
    "{{ content.lstrip('\n') }}"
    "{% for c in m.tool_calls or [] %}{% if c.function %}{% set c = c.function %}{% endif %}"
    "{% if not loop.first or content %}{{ '\n' }}{% endif %}"
    '<tool_call>\n{"name": "{{ c.name }}", "arguments": '
    "{% if c.arguments is string %}{{ c.arguments }}{% else %}{{ c.arguments | tojson }}{% endif %}}\n</tool_call>"
    "{% endfor %}<|im_end|>\n"
    "{% elif m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ content }}\n</tool_response><|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

#: Llama 3.1 and 3.2: tools beside the first question, one call in a message, results as JSON.
LLAMA31 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\n{% if tools is not none %}Environment: ipython\n{% endif %}"
    "Today Date: {{ strftime_now('%d %b %Y') }}\n\n{{ system }}<|eot_id|>"
    "{% if tools is not none %}{% set first = messages[0].content | trim %}{% set messages = messages[1:] %}"
    "<|start_header_id|>user<|end_header_id|>\n\n{% for t in tools %}{{ t | tojson(indent=4) }}\n\n{% endfor %}"
    "{{ first }}<|eot_id|>{% endif %}"
    "{% for m in messages %}"
    "{% if not (m.role == 'ipython' or m.role == 'tool' or 'tool_calls' in m) %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% elif 'tool_calls' in m %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('This model only supports one call at once!') }}{% endif %}"
    "{% set call = m.tool_calls[0].function %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    '{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}<|eot_id|>'
    "{% else %}<|start_header_id|>ipython<|end_header_id|>\n\n"
    "{% if m.content is mapping or m.content is iterable %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}"
    "<|eot_id|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)

#: Mistral: tools before the last question, strict turns, ids of nine characters, the call printed whole.
MISTRAL = (
    _LAST_QUERY + "{% set turn = namespace(user=true) %}"
    "{% for m in messages %}{% if m.role == 'user' or (m.role == 'assistant' and m.tool_calls is not defined) %}"
    "{% if (m.role == 'user') != turn.user %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% set turn.user = not turn.user %}{% endif %}{% endfor %}{{ bos_token }}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}{% if tools is not none and loop.index0 == ns.last %}"
    "[AVAILABLE_TOOLS] [{% for tool in tools %}{{ tool | tojson }}{% if not loop.last %}, {% endif %}{% endfor %}]"
    "[/AVAILABLE_TOOLS]{% endif %}[INST] {{ m.content }}[/INST]"
    "{% elif m.tool_calls is defined and m.tool_calls is not none %}[TOOL_CALLS] ["
    "{% for c in m.tool_calls %}{% set out = c.function | tojson %}{{ out[:-1] }}"
    "{% if c.id is not defined or c.id | length != 9 %}{{ raise_exception('ids should have length 9!') }}{% endif %}"
    ', "id": "{{ c.id }}"}{% if not loop.last %}, {% endif %}{% endfor %}]{{ eos_token }}'
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS] "
    '{"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]'
    "{% else %}{{ raise_exception('Only user, assistant and tool roles are supported') }}{% endif %}{% endfor %}"
)

#: DeepSeek R1: calls only where the content is None, arguments as text, a prompt that opens a block.
DEEPSEEK = (
    "{% set ns = namespace(tool=false) %}{{ bos_token }}"
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}{% set ns.tool = false %}<|User|>{{ m.content }}"
    "{% elif m.role == 'assistant' and m.content is none %}{% set ns.tool = false %}"
    "{% for c in m.tool_calls %}{{ '<|Assistant|><|calls|>' if loop.first else '\n' }}"
    "<|call|>{{ c.type }}<|sep|>{{ c.function.name + '\n```json\n' + c.function.arguments + '\n```' }}<|endcall|>"
    "{% endfor %}<|endcalls|>{{ eos_token }}"
    "{% elif m.role == 'assistant' %}{% if ns.tool %}<|endoutputs|>{{ m.content }}{{ eos_token }}"
    "{% set ns.tool = false %}"
    "{% else %}<|Assistant|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}"
    "{% elif m.role == 'tool' %}{{ '\n' if ns.tool else '<|outputs|>' }}{% set ns.tool = true %}"
    "<|output|>{{ m.content }}<|endoutput|>{% endif %}{% endfor %}"
    "{% if ns.tool %}<|endoutputs|>{% endif %}"
    "{% if add_generation_prompt and not ns.tool %}<|Assistant|><think>\n{% endif %}"
)

#: gpt-oss (harmony): channels, another end mark for the last answer, results that name their tool.
HARMONY = (
    "{% set ns = namespace(tool=none) %}<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}<|end|>"
    "{% if messages[0].role in ('developer', 'system') %}{% set developer = messages[0].content %}"
    "{% set messages = messages[1:] %}{% else %}{% set developer = '' %}{% endif %}"
    "{% if developer or tools %}<|start|>developer<|message|>{{ developer }}"
    "{% for t in tools or [] %}\ntype {{ t.function.name }} = ("
    "{% for key, of in t.function.parameters.properties | items %}{{ key }}: {{ of.type }}, {% endfor %}) => any;"
    "{% endfor %}<|end|>{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'assistant' and 'tool_calls' in m %}"
    "{% set rest = namespace(final=false) %}{% for later in messages[loop.index:] %}"
    "{% if later.role == 'assistant' and 'tool_calls' not in later %}{% set rest.final = true %}{% endif %}{% endfor %}"
    "{% if m.content and m.thinking %}{{ raise_exception('Cannot pass both content and thinking') }}{% endif %}"
    "{% if (m.content or m.thinking) and not rest.final %}"
    "<|start|>assistant<|channel|>analysis<|message|>{{ m.content or m.thinking }}<|end|>{% endif %}"
    "{% set call = m.tool_calls[0].function %}{% set ns.tool = call.name %}"
    "<|start|>assistant to=functions.{{ call.name }}<|channel|>commentary json<|message|>"
    "{{ call.arguments | tojson }}<|call|>"
    "{% elif m.role == 'assistant' %}"
    "{% if loop.last and not add_generation_prompt %}"
    "{% if 'thinking' in m %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>"
    "{% else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{% endif %}{% set ns.tool = none %}"
    "{% elif m.role == 'tool' %}"
    "{% if ns.tool is none %}{{ raise_exception('a tool message without a previous call!') }}{% endif %}"
    "<|start|>functions.{{ ns.tool }} to=assistant<|channel|>commentary<|message|>{{ m.content | tojson }}<|end|>"
    "{% elif m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)

#: ChatML of the older models: it knows nothing of tools.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
